"""A server of mail, which speaks first, and hands in what it was sent."""

import os
import socketserver


class Session(socketserver.StreamRequestHandler):
    def say(self, *lines):
        for line in lines:
            self.wfile.write(line.encode() + b"\r\n")

    def handle(self):
        self.say("220 mail ESMTP")
        with open(os.environ["SAW"], "a") as saw:
            while line := self.rfile.readline():
                print("said", line.decode().strip(), file=saw, flush=True)
                match line.split()[0].upper():
                    case b"EHLO":
                        self.say("250-mail", "250-PIPELINING", "250 8BITMIME")
                    case b"DATA":
                        self.say("354 go on")
                        while (part := self.rfile.readline()) != b".\r\n":
                            print("data", part.decode().rstrip(), file=saw, flush=True)
                        self.say("250 taken")
                    case b"QUIT":
                        self.say("221 bye")
                        return
                    case b"VRFY":
                        self.say("252 who knows")
                    case _:
                        self.say("250 ok")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


Server(("", int(os.environ["PORT"])), Session).serve_forever()
