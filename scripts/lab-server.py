#!/usr/bin/env python3
"""A web server for the lab: says who it is and whom it sees, or sends a long body.

    lab-server.py NAME PORT...

GET /            "NAME:PORT sees ADDRESS:PORT"
GET /bytes/N     N bytes, each determined by its place, so that a gap or a repeat shows
"""
import hashlib
import http.server
import sys
import threading

BLOCK = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(2048))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/bytes/"):
            left = int(self.path.rsplit("/", 1)[1])
            self.answer(left)
            while left:
                left -= self.wfile.write(BLOCK[:left])
            return
        host, port = self.client_address[:2]
        text = "%s:%d sees %s:%d\n" % (sys.argv[1], self.server.server_port, host, port)
        self.answer(len(text))
        self.wfile.write(text.encode())

    def answer(self, length):
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main():
    servers = [Server(("0.0.0.0", int(port)), Handler) for port in sys.argv[2:]]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
