// Where requests go: a WebSocket that comes back by itself, a notebook's kernel, or nowhere (a saved page).

const socketChannel = (hear, tell) => {
  let socket;
  let wait = 250;
  const waiting = [];
  const open = () => {
    const address = new URL("live", location.href);
    address.protocol = "ws:";
    address.hash = "";
    socket = new WebSocket(address);
    socket.onopen = () => {
      wait = 250;
      tell("connected");
      for (const text of waiting.splice(0)) socket.send(text);
    };
    socket.onmessage = (event) => hear(JSON.parse(event.data));
    socket.onclose = () => {
      tell("disconnected");
      setTimeout(open, wait);
      wait = Math.min(8000, wait * 2);
    };
  };
  open();
  return {
    kind: "live",
    send: (request) => {
      const text = JSON.stringify(request);
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
      else if (request.do === "look") waiting.splice(0, waiting.length, text);
      else waiting.push(text);
    },
    drop: () => socket.close(),
  };
};

const kernelChannel = (model, hear, tell) => {
  const screen = String(Math.random());
  model.on("msg:custom", (message) => message.screen === screen && hear(message));
  setTimeout(() => {
    tell("connected");
    hear({ part: "hello", about: model.get("about"), view: model.get("view"), runs: false });
  });
  return {
    kind: "notebook",
    send: (request) => model.send({ ...request, screen }),
    keep: (view) => {
      model.set("view", view);
      model.save_changes();
    },
  };
};

const savedChannel = (saved, hear, tell) => {
  setTimeout(() => {
    tell("saved");
    hear({ part: "hello", about: saved.about, view: saved.view, runs: false });
    for (const message of saved.messages) hear(message);
  });
  return { kind: "saved", send: () => {} };
};
