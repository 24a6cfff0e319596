// A client of WebSocket: text and bytes, small and large, a ping, and an orderly end.
const WebSocket = require("ws");

const socket = new WebSocket(`ws://${process.env.HOST}:${process.env.PORT}/socket?a=b`, ["letters", "chat"], {
  perMessageDeflate: process.argv[2] === "deflate",
  headers: { Cookie: "a=1" },
});
const messages = ["", "text: é", Buffer.from([0, 1, 2]), "x".repeat(100_000), Buffer.alloc(3_000_000, 7)];

socket.on("upgrade", (answer) => {
  console.log("HTTP/" + answer.httpVersion, answer.statusCode);
  for (const [name, value] of Object.entries(answer.headers)) {
    // The server's answer to a key that is new for every connection.
    console.log(`${name}: ${name === "sec-websocket-accept" ? value.length : value}`);
  }
  console.log("");
});
socket.on("message", (data, isBinary) => {
  console.log("message", data.length, isBinary);
  if (messages.length > 0) socket.send(messages.shift());
  else socket.ping("are you there?");
});
socket.on("pong", (data) => {
  console.log("pong", data.toString());
  socket.close(4001, "done");
});
socket.on("close", (code, reason) => console.log("closed", code, reason.toString()));
socket.on("error", (error) => {
  console.log(error.message);
  process.exitCode = 1;
});
