"""The service that the files beside it run: it issues invoices, in PostgreSQL."""

from crossfoot import Crossfoot, Message

app = Crossfoot("billing")  # CROSSFOOT_DATABASE says where


@app.handler("case.released", operation="bill:{subject}:{sequence}", proves="invoice.issued")
def bill(message: Message, tx):
    tx.execute("create table if not exists invoices (case_id text, amount integer)")
    tx.execute("insert into invoices values (%s, %s)", (message.subject, message.data["amount"]))
    tx.outcome("invoice.issued", amount=message.data["amount"])
