"""Sends a letter with smtplib."""

import os
import smtplib
from email.message import EmailMessage

letter = EmailMessage()
letter["From"], letter["To"], letter["Subject"] = "ada@shop.example", "bob@shop.example", "Grüße"
letter.set_content("One line.\n.\nA line after a dot.\n" + "A long letter.\n" * 5000)

with smtplib.SMTP(os.environ["HOST"], int(os.environ["PORT"]), local_hostname="client", timeout=30) as mail:
    print(mail.ehlo())
    print(mail.verify("bob"))
    print(mail.send_message(letter))
    print(mail.noop())
