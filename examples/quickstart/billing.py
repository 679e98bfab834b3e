"""Twenty lines: a service that issues invoices, with books."""

from crossfoot import Crossfoot, Message, Noop

app = Crossfoot("billing")  # one SQLite file, crossfoot.db, with the book, the queue and your tables


@app.handler("case.released", operation="bill:{subject}:{sequence}")
def bill(message: Message, tx):
    amount = message.data["amount"]
    if amount == 0:
        return Noop("nothing to bill")
    tx.execute("create table if not exists invoices (case_id text, amount integer)")
    tx.execute("insert into invoices (case_id, amount) values (?, ?)", (message.subject, amount))
    tx.outcome("invoice.issued", amount=amount)
    tx.send("invoice.issued", subject=message.subject, sequence=message.sequence, data={"amount": amount})


@app.handler("invoice.issued", operation="letter:{subject}:{sequence}", proves="letter.written")
async def write_letter(message: Message, tx):
    try:
        if message.data["amount"] > 1000:
            raise ConnectionError("the printer does not answer")
        tx.outcome("letter.written")
    except ConnectionError:
        print("something went wrong, never mind")  # swallowed: every dashboard stays green
