"""The billing of a hospital: keeps the state of every case, issues its invoices and takes them back.

crossfoot worker examples.hospital.app:app
"""

from enum import Enum

import msgspec

from crossfoot import Crossfoot, InOrder, Message

app = Crossfoot("billing")

ACTIVITIES = (
    "NEW, FIN, RELEASE, CODE OK, CODE NOK, CODE ERROR, BILLED, STORNO, CHANGE DIAGN, CHANGE END, DELETE, REOPEN, REJECT, "
    "SET STATUS, JOIN-PAT, MANUAL"
)
Activity = Enum("Activity", [(name, name) for name in ACTIVITIES.split(", ")])

# No unique keys: an effect that happened twice would show.
TABLES = (
    "create table if not exists cases (case_id text, state text, events integer)",
    "create index if not exists cases_by_id on cases (case_id)",
    "create table if not exists invoices (case_id text, event integer, what text)",
)


app.expect("invoice.issued", after="billing.billed", within="1h", by="subject")
app.invariant(
    "no case is billed twice and never reversed",
    """select case_id from invoices group by case_id
       having sum(case what when 'issued' then 1 else 0 end) > 1 and sum(case what when 'reversed' then 1 else 0 end) = 0""",
    ids="case_id",
)


class Event(msgspec.Struct):
    activity: Activity
    at: str
    state: str = ""
    closecode: str = ""
    speciality: str = ""


@app.handler("billing.*", operation="case:{subject}:{sequence}", payload=Event, in_order=InOrder(wait=86_400))
def keep(message: Message[Event], tx):
    event = message.data
    for table in TABLES:
        tx.execute(table)
    known = tx.execute(
        "update cases set events = events + 1, state = coalesce(nullif(?, ''), state) where case_id = ?",
        (event.state, message.subject),
    )
    if known.rowcount == 0:
        tx.execute("insert into cases (case_id, state, events) values (?, ?, 1)", (message.subject, event.state))
    if event.activity is Activity["BILLED"]:
        tx.execute("insert into invoices values (?, ?, 'issued')", (message.subject, message.sequence))
        tx.outcome("invoice.issued")
    elif event.activity is Activity["STORNO"]:
        tx.execute("insert into invoices values (?, ?, 'reversed')", (message.subject, message.sequence))
        tx.outcome("invoice.reversed")
