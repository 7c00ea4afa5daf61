"""`smtplib`, `poplib`, `imaplib` and `ftplib`, with and without TLS: programs that use them."""

from __future__ import annotations

import ftplib
import imaplib
import io
import poplib
import smtplib
import socket
import threading
import time
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any, ClassVar

import pytest

import aevent
from tests.monkey.conversation import Conversation, contexts, serving


class Smtp(Conversation):
    greeting = b"220 ready"
    messages: ClassVar[list[str]]

    def answer(self, line: str) -> bool:
        command = line.partition(" ")[0].upper()
        if command == "EHLO":
            self.say(b"250-localhost", b"250 STARTTLS")
        elif command == "STARTTLS":
            self.say(b"220 go ahead")
            self.start_tls()
        elif command == "DATA":
            self.say(b"354 go ahead")
            body = bytearray()
            while (part := self.file.readline()) != b".\r\n":
                body += part
            self.messages.append(body.decode())
            self.say(b"250 ok")
        elif command == "QUIT":
            self.say(b"221 bye")
            return False
        elif command == "HANG":
            time.sleep(60)
        else:
            self.say(b"250 ok")
        return True


def test_smtplib() -> None:
    class Server(Smtp):
        messages: ClassVar[list[str]] = []

    def send(number: int, *, tls: bool) -> None:
        message = EmailMessage()
        message["From"], message["To"] = "me@localhost", "you@localhost"
        message["Subject"] = f"number {number}"
        message.set_content("hello")
        with smtplib.SMTP("localhost", port, timeout=30) as client:
            if tls:
                client.starttls(context=contexts()[1])
            client.send_message(message)

    with serving(Server) as port:
        threads = [
            threading.Thread(target=send, args=(number,), kwargs={"tls": number % 2 == 1})
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        subjects = sorted(message.split("Subject: ")[1][:8] for message in Server.messages)
        assert subjects == [f"number {number}" for number in range(4)]


def test_a_server_that_says_nothing_is_given_up() -> None:
    class Silent(Smtp):
        messages: ClassVar[list[str]] = []

        def handle(self) -> None:
            self.request.recv(100)

    with serving(Silent) as port:
        # The latter if it is not even connected then.
        with pytest.raises((smtplib.SMTPServerDisconnected, TimeoutError), match="timed out"):
            smtplib.SMTP("127.0.0.1", port, timeout=0.005)
        client = smtplib.SMTP()
        with aevent.move_on_after(0.005) as scope:
            client.connect("127.0.0.1", port)
        assert scope.cancelled_caught
        client.close()


class Pop(Conversation):
    greeting = b"+OK ready"

    def answer(self, line: str) -> bool:
        command = line.partition(" ")[0].upper()
        if command == "STAT":
            self.say(b"+OK 2 320")
        elif command == "RETR":
            self.say(b"+OK", b"Subject: hello", b"", b"the text", b".")
        elif command == "CAPA":
            self.say(b"+OK", b"STLS", b".")
        elif command == "STLS":
            self.say(b"+OK")
            self.start_tls()
        else:
            self.say(b"+OK")
        return command != "QUIT"


class PopOverTls(Pop):
    implicit_tls = True


def test_poplib() -> None:
    def read(client: poplib.POP3) -> None:
        client.user("me")
        client.pass_("secret")
        assert client.stat() == (2, 320)
        assert client.retr(1)[1] == [b"Subject: hello", b"", b"the text"]
        client.quit()

    with serving(Pop) as port:
        read(poplib.POP3("localhost", port, timeout=30))
        client = poplib.POP3("localhost", port, timeout=30)
        client.stls(contexts()[1])
        read(client)
    with serving(PopOverTls) as port:
        read(poplib.POP3_SSL("localhost", port, timeout=30, context=contexts()[1]))


class Imap(Conversation):
    greeting = b"* OK ready"

    def answer(self, line: str) -> bool:
        tag, command = line.split()[:2]
        extra: dict[str, list[bytes]] = {
            "CAPABILITY": [b"* CAPABILITY IMAP4REV1 STARTTLS"],
            "SELECT": [b"* 1 EXISTS"],
            "FETCH": [b"* 1 FETCH (RFC822 {8}", b"the text)"],
            "LOGOUT": [b"* BYE"],
        }
        self.say(*extra.get(command, ()), tag.encode() + b" OK done")
        if command == "STARTTLS":
            self.start_tls()
        return command != "LOGOUT"


class ImapOverTls(Imap):
    implicit_tls = True


def test_imaplib() -> None:
    def read(client: imaplib.IMAP4) -> None:
        with client:
            client.login("me", "secret")
            assert client.select() == ("OK", [b"1"])
            assert client.fetch("1", "(RFC822)")[1][0] == (b"1 (RFC822 {8}", b"the text")

    with serving(Imap) as port:
        read(imaplib.IMAP4("localhost", port, timeout=30))
        client = imaplib.IMAP4("localhost", port, timeout=30)
        client.starttls(contexts()[1])
        read(client)
    with serving(ImapOverTls) as port:
        read(imaplib.IMAP4_SSL("localhost", port, ssl_context=contexts()[1], timeout=30))


class Ftp(Conversation):
    greeting = b"220 ready"
    content = bytes(range(256)) * 4000
    stored: ClassVar[list[bytes]]
    protected = False

    def transfer(self, use: Callable[[Any], None]) -> None:
        self.say(b"150 here it comes")
        connection, _ = self.passive.accept()
        if self.protected:
            connection = contexts()[0].wrap_socket(connection, server_side=True)
        with connection:
            use(connection)
            if self.protected:
                try:
                    connection.unwrap()
                except OSError:
                    pass
        self.passive.close()
        self.say(b"226 done")

    def receive(self, connection: socket.socket) -> None:
        parts = []
        while part := connection.recv(10_000):
            parts.append(part)
        self.stored.append(b"".join(parts))

    def answer(self, line: str) -> bool:
        command, _, rest = line.partition(" ")
        if command == "AUTH":
            self.say(b"234 go ahead")
            self.start_tls()
        elif command == "PROT":
            self.protected = rest == "P"
            self.say(b"200 ok")
        elif command in ("EPSV", "PASV"):
            self.passive = socket.create_server(("127.0.0.1", 0))
            port = self.passive.getsockname()[1]
            self.say(b"227 entering (127,0,0,1,%d,%d)" % (port >> 8, port & 255))
        elif command == "RETR":
            self.transfer(lambda connection: connection.sendall(self.content))
        elif command == "NLST":
            self.transfer(lambda connection: connection.sendall(b"one\r\ntwo\r\n"))
        elif command == "STOR":
            self.transfer(self.receive)
        elif command == "USER":
            self.say(b"331 and the password?")
        elif command == "PASS":
            self.say(b"230 welcome")
        else:
            self.say(b"200 ok")
        return command != "QUIT"


def test_ftplib() -> None:
    class Server(Ftp):
        stored: ClassVar[list[bytes]] = []

    def use(client: ftplib.FTP) -> None:
        with client:
            client.login("me", "secret")
            if isinstance(client, ftplib.FTP_TLS):
                client.prot_p()
            assert client.nlst() == ["one", "two"]
            parts: list[bytes] = []
            client.retrbinary("RETR one", parts.append)
            assert b"".join(parts) == Ftp.content
            client.storbinary("STOR two", io.BytesIO(Ftp.content))

    with serving(Server) as port:
        for client in (ftplib.FTP(timeout=30), ftplib.FTP_TLS(timeout=30, context=contexts()[1])):
            client.connect("localhost", port)
            use(client)
        assert Server.stored == [Ftp.content, Ftp.content]
