"use strict";
/* The page of the local house: every button is one action of POST /api/actions/{name}; everything shown is read from JSON. */
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const remembered = sessionStorage.getItem("shop");
  let state = null;
  let last = 0;
  let shop = remembered;

  const get = async (path) => (await fetch(path)).json();
  const act = async (name, input = {}) => {
    const response = await fetch(`/api/actions/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ shop, ...input }),
    });
    const value = await response.json();
    if (!response.ok) throw new Error(value.error || `The stand-in answered ${response.status}`);
    return value;
  };

  const show = (name, value) => {
    const box = $("answer");
    box.replaceChildren();
    box.classList.remove("muted");
    if (value instanceof Error) {
      box.append(make("strong", { className: "bad", textContent: value.message }));
      return;
    }
    for (const delivery of value.deliveries || []) {
      const good = delivery.status >= 200 && delivery.status < 300;
      box.append(
        make(
          "div",
          {},
          make("strong", { className: good ? "good" : "bad", textContent: delivery.status || delivery.note }),
          ` ${delivery.topic} in ${delivery.ms} ms `,
          make("code", { className: "muted", textContent: delivery.webhook_id.slice(0, 8) }),
          delivery.next_attempt_at ? ` · again at ${delivery.next_attempt_at}` : "",
        ),
      );
    }
    const rest = { ...value };
    delete rest.deliveries;
    delete rest.url;
    if (Object.keys(rest).length || !box.childNodes.length) {
      box.append(make("div", { className: "muted", textContent: `${name}: ${JSON.stringify(rest)}` }));
    }
  };
  const run = async (name, input) => {
    try {
      const value = await act(name, input);
      show(name, value);
      return value;
    } catch (error) {
      show(name, error);
      return null;
    } finally {
      refresh();
      setTimeout(refresh, 900);
    }
  };

  const options = (select, items) => {
    const text = JSON.stringify(items);
    if (select.dataset.items === text) return;
    select.dataset.items = text;
    const chosen = select.value;
    select.replaceChildren(...items.map(([value, label]) => make("option", { value, textContent: label })));
    if (items.some(([value]) => String(value) === chosen)) select.value = chosen;
  };
  const span = (seconds) => {
    if (seconds === null) return "never expires";
    if (seconds <= 0) return "expired";
    for (const [size, unit] of [[86400, "days"], [3600, "h"], [60, "min"]]) {
      if (seconds >= size * 2) return `${Math.floor(seconds / size)} ${unit} left`;
    }
    return `${seconds} s left`;
  };
  const table = (head, rows) =>
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { textContent: text, scope: "col" })))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))))),
    );

  const draw = () => {
    options($("shop"), state.shops.map((known) => [known.domain, known.name]));
    if (!state.shops.some((known) => known.domain === shop)) shop = state.shops[0].domain;
    $("shop").value = shop;
    const here = state.shops.find((known) => known.domain === shop);
    $("clock").textContent = state.now.replace("T", " ").replace(/\..*|Z/, "") + " UTC";
    const status = $("status");
    status.textContent = here.installed ? "installed" : here.uninstalled_at ? "uninstalled" : "not installed";
    status.className = `badge ${here.installed ? "good" : "warn"}`;
    $("flow-note").textContent = state.app.managed_install
      ? "Shopify installs the app itself; the app then exchanges an ID token."
      : "The app runs the authorization code grant.";
    $("do-open").disabled = !here.installed;
    $("do-uninstall").disabled = !here.installed;
    $("storefront").href = `${state.addresses.shopify}/${shop}/`;
    options($("scope"), [...state.app.optional_scopes, ...state.app.scopes].map((scope) => [
      scope,
      `${scope}${here.scopes && here.scopes.includes(scope) ? " · granted" : ""}`,
    ]));
    options($("customer"), here.customers.map((known) => [
      known.id,
      `${known.first_name} ${known.last_name} · ${known.email || "no e-mail"}`,
    ]));
    options($("order"), here.orders.map((order) => [order.id, `#${order.number} · ${order.total}`]));
    const topics = [...state.app.topics, "products/update", "nonsense/topic"];
    options($("topic"), topics.map((topic) => [topic, topic]));
    options($("mode"), state.modes.map((mode) => [mode, mode]));
    options($("fault"), [
      ["503", "503"], ["520", "520 from the edge"], ["429", "429, Retry-After 2"], ["lost", "answer lost after processing"],
      ["refused", "connection closed"], ["slow", "slow by 20 s"], ["html", "an HTML error"], ["garbage", "broken JSON"],
      ["missing", "no expires_in"],
    ]);
    $("mode").value = document.activeElement === $("mode") ? $("mode").value : here.mode;
    for (const box of document.querySelectorAll("[data-app]")) box.checked = state.app[box.dataset.app];

    const kind = (token) => (typeof token.kind === "string" ? token.kind : Object.keys(token.kind)[0]);
    const badge = (token) =>
      make("span", {
        className: `badge ${token.dead || token.seconds_left <= 0 && token.seconds_left !== null ? "bad" : "good"}`,
        textContent: token.dead || span(token.seconds_left),
      });
    const tokens = [
      ...here.access_tokens.map((token) => ["access", kind(token), token]),
      ...here.refresh_tokens.map((token) => ["refresh", token.used ? "used" : "unused", token]),
    ].reverse();
    const facts = make("p", {}, make("span", { className: "muted", textContent: "Granted: " }),
      make("code", { textContent: (here.scopes || []).join(", ") || "nothing" }),
      ` · client secrets: ${state.app.secrets.join(", ")} · Admin API: ${here.mode} · deliveries waiting: ${state.waiting_deliveries}` +
      ` · faults waiting: ${state.faults.reduce((sum, fault) => sum + fault.left, 0)}`);
    const list = tokens.length
      ? table(["Token", "Kind", "Fingerprint", "State"], tokens.slice(0, 40).map(([what, sort, token]) =>
          [what, sort, make("code", { textContent: token.fingerprint }), badge(token)]))
      : make("p", { className: "muted", textContent: "The app has no tokens for this shop." });
    $("tokens").replaceChildren(facts, list);
  };

  /* Draws any JSON: lists of objects as tables, the rest as text. */
  const draw_value = (value) => {
    if (Array.isArray(value) && value.length && value.every((item) => item && typeof item === "object" && !Array.isArray(item))) {
      const columns = [...new Set(value.flatMap((item) => Object.keys(item)))];
      if (columns.length > 8) return stacked(value);
      return table(columns, value.map((item) => columns.map((name) => {
        const cell = item[name];
        if (cell === undefined || cell === null) return "";
        if (name === "at" && typeof cell === "number") return new Date(cell).toISOString().slice(11, 23);
        return typeof cell === "object" ? make("code", { textContent: JSON.stringify(cell) }) : String(cell);
      })));
    }
    if (Array.isArray(value) && value.every((item) => typeof item !== "object")) {
      return make("pre", { textContent: value.join("\n") || "empty" });
    }
    if (Array.isArray(value) && !value.length) return make("p", { className: "muted", textContent: "none" });
    if (value && typeof value === "object") {
      return make("pre", { textContent: JSON.stringify(value, null, 1) });
    }
    return make("p", { textContent: String(value) });
  };
  /* Objects with many members: one block each, named by its sort key, a line a member. */
  const stacked = (items) => {
    const list = make("div");
    for (const item of items) {
      const block = make("details");
      block.append(make("summary", { textContent: item.sk ?? item.key ?? item.id ?? "item" }));
      block.append(make("pre", { textContent: Object.entries(item).map(([name, value]) =>
        `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join("\n") }));
      list.append(block);
    }
    return list;
  };
  /* What is kept comes first; how it was answered after it. */
  const LAST = ["invocations", "log"];
  const draw_holdings = (holdings) => {
    const rank = ([name]) => LAST.indexOf(name);
    const parts = Object.entries(holdings).sort((a, b) => rank(a) - rank(b)).flatMap(([name, value]) => [
      make("h3", { textContent: name.replaceAll("_", " ") }),
      draw_value(value),
    ]);
    $("holdings").replaceChildren(...parts);
  };
  const draw_events = (events) => {
    const body = $("events");
    for (const event of events) {
      last = Math.max(last, event.number);
      const detail = event.detail && Object.keys(event.detail).length
        ? make("details", {}, make("summary", { textContent: "more" }), make("pre", { textContent: JSON.stringify(event.detail, null, 1) }))
        : "";
      body.prepend(make("tr", {},
        make("td", { className: "muted", textContent: event.at.slice(11, 19) }),
        make("td", { textContent: (event.shop || "").replace(".myshopify.com", "") }),
        make("td", {}, make("span", { textContent: event.text }), detail)));
    }
    while (body.children.length > 300) body.lastChild.remove();
  };

  let busy = false;
  const refresh = async () => {
    if (busy) return;
    busy = true;
    try {
      state = await get("/api/state");
      draw();
      const [events, holdings] = await Promise.all([
        get(`/api/events?after=${last}`),
        get(`/api/holdings?shop=${encodeURIComponent(shop)}`),
      ]);
      draw_events(events.events);
      draw_holdings(holdings);
    } catch (error) {
      $("status").textContent = "the local house does not answer";
      $("status").className = "badge bad";
    } finally {
      busy = false;
    }
  };

  $("shop").addEventListener("change", (event) => {
    shop = event.target.value;
    sessionStorage.setItem("shop", shop);
    refresh();
  });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const data = button.dataset;
    if (data.go) {
      const value = await run(data.go);
      if (value) location.assign(value.url);
    } else if (data.act) {
      const input = {};
      if ("customer" in data && $("customer").value) input.customer = Number($("customer").value);
      if ("order" in data && $("order").value) input.order = Number($("order").value);
      if (data.act === "customer_update") input.last_name = `Changed ${new Date().toISOString().slice(11, 19)}`;
      if (data.act === "data_request" || data.act === "customer_redact") input.email_only = $("email-only").checked;
      await run(data.act, input);
    } else if (data.scope) {
      await run("scopes", { [data.scope]: [$("scope").value] });
    } else if (data.hook) {
      await run("webhook", { topic: $("topic").value, variant: data.hook, family: $("family").value });
    } else if (data.advance) {
      await run("advance", { seconds: Number(data.advance) });
    } else if (button.id === "do-mode") {
      await run("admin_mode", { mode: $("mode").value });
    } else if (button.id === "do-fault") {
      const kind = $("fault").value;
      const count = Number($("fault-count").value) || 1;
      const input = /^\d+$/.test(kind) ? { kind: "status", status: Number(kind), count } : { kind, count };
      if (kind === "429") input.retry_after = "2";
      if (kind === "slow") input.ms = 20000;
      await run("fault", input);
    }
  });
  for (const box of document.querySelectorAll("[data-app]")) {
    box.addEventListener("change", () => run("app", { [box.dataset.app]: box.checked }));
  }
  refresh();
  setInterval(() => { if (!document.hidden) refresh(); }, 2500);
})();
