// The sample front end: shows what Gatehouse holds for this shop. No framework, no build step.
// It must never put text from outside into the page as HTML: everything goes through textContent.

const RETRY_HEADER = "X-Shopify-Retry-Invalid-Session-Request";
const root = document.getElementById("app");
const api = root.dataset.api;
const standalone = root.dataset.standalone === "true";
const japanese = document.documentElement.lang.startsWith("ja");

const words = japanese
  ? {
      installation: "インストール", shop: "ストア", status: "状態", since: "インストール日時", scopes: "アクセス権限",
      missing: "不足している権限", grant: "権限を許可する", customers: "顧客", name: "名前", email: "メール", phone: "電話",
      updated: "更新日時", more: "さらに表示", requests: "プライバシー リクエスト", topic: "種類", received: "受付日時",
      due: "期限", export: "書き出し", download: "書き出しを保存", none: "まだ何もありません。", loading: "読み込み中…", shown: "件を表示",
      dead: "このアプリとストアの接続が切れています。アプリをもう一度開いて接続し直してください。", again: "接続し直す",
      failed: "読み込めませんでした。", retry: "もう一度試す", reference: "お問い合わせ番号",
      expired: "期限切れ", refresh: "更新",
      live: "Shopify のストア情報", currency: "通貨", timezone: "タイムゾーン", plan: "プラン", development: "開発ストア",
      plus: "Plus", standard: "通常",
      says: {
        installed: "インストール済み", needs_reauth: "再接続が必要", uninstalled: "アンインストール済み",
        received: "受付済み", working: "処理中", done: "完了", nothing_held: "該当データなし", failed: "失敗",
        "customers/data_request": "顧客データの開示請求", "customers/redact": "顧客データの削除", "shop/redact": "ストアのデータの削除",
      },
      reasons: {
        throttled: "Shopify が混み合っています。少し待ってから、もう一度お試しください。",
        shopify_down: "Shopify から応答がありません。しばらくしてから、もう一度お試しください。",
        shop_frozen: "このストアは Shopify により凍結されています。管理画面でお支払いをご確認ください。",
        shop_locked: "このストアは Shopify によりロックされています。Shopify サポートにお問い合わせください。",
        missing_scopes: "このアプリに必要な権限がストアで許可されていません。",
        stale_page: "このページは別のログインのものです。ページを再読み込みしてください。",
        open_again: "Shopify 管理画面からアプリをもう一度開いてください。",
        forbidden: "この操作は許可されていません。ストアの管理者にお問い合わせください。",
        unavailable: "一時的に利用できません。1 分ほど待ってから、もう一度お試しください。",
        outcome_unknown: "変更が行われたかどうか確認できませんでした。ページを更新し、現在の状態を確かめてから、もう一度お試しください。",
        refused: "現在、Shopify はこのアプリにこの操作を許可していません。お問い合わせ番号を添えて、アプリのサポートにお知らせください。",
        changed: "表示中の内容は最新ではありません。ページを更新してから、もう一度お試しください。",
        session: "ログイン状態を確認できませんでした。ページを再読み込みしてください。",
        fault: "アプリでエラーが発生しました。もう一度お試しください。再び発生する場合は、お問い合わせ番号をアプリのサポートにお知らせください。",
      },
    }
  : {
      installation: "Installation", shop: "Shop", status: "Status", since: "Installed", scopes: "Access scopes",
      missing: "Missing scopes", grant: "Grant access", customers: "Customers", name: "Name", email: "E-mail", phone: "Phone",
      updated: "Updated", more: "Show more", requests: "Privacy requests", topic: "Kind", received: "Received",
      due: "Due", export: "Export", download: "Save export", none: "Nothing here yet.", loading: "Loading…", shown: "shown",
      dead: "The connection between this app and the shop has ended. Open the app again to reconnect it.", again: "Reconnect",
      failed: "This could not be loaded.", retry: "Try again", reference: "Reference",
      expired: "expired", refresh: "Refresh",
      live: "Shop, as Shopify has it now", currency: "Currency", timezone: "Time zone", plan: "Plan",
      development: "Development store", plus: "Plus", standard: "Standard",
      // The API's own words are English.
      says: {},
      reasons: {
        throttled: "Shopify is busy right now. Wait a moment and try again.",
        shopify_down: "Shopify does not answer. Wait a minute and try again.",
        shop_frozen: "Shopify has frozen this shop. Settle its account in the Shopify admin.",
        shop_locked: "Shopify has locked this shop. Ask Shopify's support.",
        missing_scopes: "The shop has not granted what this needs.",
        stale_page: "This page belongs to another login. Reload it.",
        open_again: "Open the app again from the Shopify admin.",
        forbidden: "You may not do this. Ask somebody who runs the shop.",
        unavailable: "This is out of order for the moment. Wait a minute and try again.",
        outcome_unknown: "It is not known whether the change was made. Refresh, and look before you try again.",
        refused: "Shopify does not let the app do this at present. Contact the app's support and quote the reference.",
        changed: "What is shown here is no longer so. Refresh, then try again.",
        session: "Your session could not be confirmed. Reload the page.",
        fault: "The app made an error. Try again; if it happens again, contact its support and quote the reference.",
      },
    };

/** A state or a kind that the API names, as this page's reader calls it. */
const said = (name) => words.says[name] ?? name;

/** Which words go with each code of the API. Its own sentences are for whoever runs the app, and are never shown. */
const reasons = {
  throttled: "throttled", shopify_down: "shopify_down", shop_frozen: "shop_frozen", shop_locked: "shop_locked",
  missing_scopes: "missing_scopes", forbidden: "forbidden", stale_page: "stale_page", open_again: "open_again",
  unavailable: "unavailable", timeout: "unavailable",
  outcome_unknown: "outcome_unknown",
  egress_refused: "refused", shopify_forbidden: "refused", protected_data: "refused", shopify_rejected: "refused",
  shopify_refused: "refused", no_optional_scopes: "refused",
  not_found: "changed", gone: "changed", conflict: "changed",
  invalid_id_token: "session", invalid_signature: "session", headers_too_large: "session",
  bad_request: "fault", missing_header: "fault", method_not_allowed: "fault", body_too_large: "fault", uri_too_long: "fault",
  unsupported_media_type: "fault", unprocessable: "fault", internal: "fault",
};

/** What the API said when it refused: a stable code, and the request id to quote. */
class Refused extends Error {
  constructor(status, problem) {
    super(words.failed);
    this.status = status;
    this.code = problem.code || problem.error || "unknown";
    this.reference = problem.request_id || "";
  }
}

async function authorization() {
  return standalone ? {} : { Authorization: `Bearer ${await window.shopify.idToken()}` };
}

/** One call with a fresh ID token; once more when the API says that the token was the trouble. */
async function call(path, options = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const headers = { Accept: "application/json", ...(await authorization()), ...options.headers };
    // Reading needs it too: a tab that was left open must not show what belongs to a later login.
    if (standalone) headers["X-CSRF-Token"] = root.dataset.csrf;
    const response = await fetch(api + path, {
      ...options, headers, mode: "cors", credentials: standalone ? "same-origin" : "omit",
    });
    if (response.ok) return response;
    if (response.status === 401 && response.headers.get(RETRY_HEADER) === "1" && attempt === 0) continue;
    let problem = {};
    try {
      problem = await response.json();
    } catch {
      // Not JSON: the status alone has to do.
    }
    throw new Refused(response.status, problem);
  }
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = String(text);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function button(label, onclick, kind = "secondary") {
  const made = element("button", label, { type: "button", class: `button ${kind}` });
  made.addEventListener("click", onclick);
  return made;
}

/** A button whose work can fail: what went wrong stands after it until it is pressed again, by itself or by "Try again". */
function attempt(label, work, kind) {
  const made = button(label, async () => {
    const former = made.nextElementSibling;
    if (former?.matches(".banner")) former.remove();
    made.disabled = true;
    try {
      await work(made);
    } catch (error) {
      made.after(trouble(error, () => made.click()));
    } finally {
      made.disabled = false;
      // It lost the focus when it was disabled, or the button in the former banner did when that went.
      if (document.activeElement === document.body) made.focus();
    }
  }, kind);
  return made;
}

const when = new Intl.DateTimeFormat(japanese ? "ja" : "en", { dateStyle: "medium", timeStyle: "short" });
function date(text) {
  if (!text) return element("span", "–");
  return element("time", when.format(new Date(text)), { datetime: text });
}

/** A section that loads by itself, says so to a screen reader, and can be tried again; what it returns loads it anew. */
function section(id, title, load) {
  // No `heading` attribute: Polaris would write a second heading from it, and without Polaris there would be none.
  const host = element("s-section", null, { id });
  const heading = element("h2", title, { id: `${id}-title` });
  const live = element("p", words.loading, { role: "status", "aria-live": "polite", class: "quiet" });
  const body = element("div", null, { "aria-labelledby": `${id}-title`, role: "region" });
  host.append(heading, live, body);
  root.append(host);
  const run = async () => {
    live.textContent = words.loading;
    // Whoever pressed a button in here keeps their place when it is replaced.
    const focused = body.contains(document.activeElement);
    try {
      await load(body, live);
      if (live.textContent === words.loading) live.textContent = "";
    } catch (error) {
      live.textContent = "";
      body.replaceChildren(trouble(error, run));
    }
    if (focused && !body.contains(document.activeElement)) {
      heading.tabIndex = -1;
      heading.focus();
    }
  };
  run();
  return run;
}

function trouble(error, retry) {
  const passing = error instanceof Refused && (error.code === "throttled" || error.code === "shopify_down");
  const box = element("s-banner", null, { tone: passing ? "warning" : "critical", role: "alert", class: "banner" });
  const dead = error instanceof Refused && error.code === "reauthenticate";
  const reason = error instanceof Refused ? words.reasons[reasons[error.code]] : undefined;
  box.append(element("p", dead ? words.dead : reason || words.failed));
  if (error.reference) box.append(element("p", `${words.reference}: ${error.reference}`, { class: "quiet" }));
  const stale = standalone && error instanceof Refused && error.code === "stale_page";
  // A launch asks for what is required and not granted; whoever has granted it elsewhere tries again.
  if (error instanceof Refused && error.code === "missing_scopes") box.append(button(words.grant, reconnect, "primary"));
  if (dead) box.append(button(words.again, reconnect, "primary"));
  else box.append(button(words.retry, stale ? () => window.location.reload() : retry));
  return box;
}

/** The way out of a dead connection: open the app anew, which brings a fresh ID token or the grant page. */
function reconnect() {
  const target = root.dataset.reopen;
  if (target) window.open(target, "_top");
  else window.location.reload();
}

function table(caption, columns, rows) {
  const made = element("table");
  made.append(element("caption", caption, { class: "hidden" }));
  const head = element("tr");
  for (const column of columns) head.append(element("th", column, { scope: "col" }));
  made.append(element("thead"));
  made.tHead.append(head);
  made.append(element("tbody"));
  for (const row of rows) made.tBodies[0].append(rowOf(row));
  return made;
}

function rowOf(cells) {
  const row = element("tr");
  cells.forEach((cell, index) => {
    const made = element(index === 0 ? "th" : "td", null, index === 0 ? { scope: "row" } : {});
    made.append(cell instanceof Node ? cell : document.createTextNode(cell ?? "–"));
    row.append(made);
  });
  return row;
}

/** Terms and what they say. */
function facts(pairs) {
  const list = element("dl");
  for (const [term, value] of pairs) {
    const detail = element("dd");
    detail.append(value instanceof Node ? value : document.createTextNode(value || "–"));
    list.append(element("dt", term), detail);
  }
  return list;
}

function post(path, body) {
  return call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

async function installation(body) {
  const held = await (await call("/v1/installation")).json();
  body.replaceChildren(facts([
    [words.shop, held.shop],
    [words.status, element("s-badge", said(held.status), { class: "badge", tone: held.status === "installed" ? "success" : "critical" })],
    [words.since, date(held.installed_at)],
    [words.scopes, held.scopes.join(", ")],
  ]));
  if (held.missing_scopes?.length) {
    const box = element("s-banner", null, { tone: "warning", role: "alert", class: "banner" });
    box.append(element("p", `${words.missing}: ${held.missing_scopes.join(", ")}`));
    const grant = attempt(words.grant, async () => {
      const asked = await (await post("/v1/scopes/request", { scopes: held.missing_scopes })).json();
      window.open(asked.url, "_top");
    }, "primary");
    box.append(grant);
    body.append(box);
  }
}

/** What the Admin API says of the shop at this moment: the one part that Shopify's own state can hold up. */
async function liveShop(body) {
  const { shop } = (await (await post("/v1/admin/shop", {})).json()).data;
  const plan = shop.plan.partnerDevelopment ? words.development : shop.plan.shopifyPlus ? words.plus : words.standard;
  body.replaceChildren(facts([
    [words.name, shop.name], [words.currency, shop.currencyCode], [words.timezone, shop.ianaTimezone], [words.plan, plan],
  ]));
}

/** A paged table: the first page now, each further one at the push of a button, which hands the focus on. */
function paged(path, caption, columns, cells) {
  // An empty page that names a next one is not the end.
  const load = async (cursor) => {
    for (let from = cursor; ; ) {
      const page = await (await call(path + (from ? `?cursor=${encodeURIComponent(from)}` : ""))).json();
      if (page.items.length > 0 || !page.next) return page;
      from = page.next;
    }
  };
  return async (body, live) => {
    const shown = table(caption, columns, []);
    const { rows } = shown.tBodies[0];
    const add = (page) => {
      for (const item of page.items) shown.tBodies[0].append(rowOf(cells(item)));
      if (page.next) shown.after(more(page.next));
    };
    const more = (cursor) => attempt(words.more, async (pressed) => {
      const before = rows.length;
      const page = await load(cursor);
      pressed.remove();
      add(page);
      live.textContent = `${rows.length} ${words.shown}`;
      // The button is gone; the first row that it brought is where reading goes on, or the last one when it brought none.
      const first = rows[before] ?? rows[before - 1];
      first.tabIndex = -1;
      first.focus();
    });
    const page = await load(null);
    body.replaceChildren(page.items.length > 0 ? shown : element("p", words.none, { class: "quiet" }));
    add(page);
  };
}

const customers = paged("/v1/customers", words.customers, [words.name, words.email, words.phone, words.updated], (customer) => [
  [customer.first_name, customer.last_name].filter(Boolean).join(" ") || `#${customer.id}`,
  customer.email, customer.phone, date(customer.updated_at),
]);

const requests = paged("/v1/privacy/requests", words.requests, [words.topic, words.status, words.received, words.due, words.export], (request) => [
  said(request.topic), element("s-badge", said(request.state), { class: "badge", tone: request.state === "done" ? "success" : "info" }),
  date(request.received_at), date(request.due_at), exportCell(request),
]);

/** The export's file, part by part: one answer of the API holds 3 MiB at most. */
async function wholeExport(id) {
  const size = 3 * 1024 * 1024;
  const parts = [];
  for (let first = 0, total = 1; first < total; ) {
    const response = await call(`/v1/privacy/requests/${encodeURIComponent(id)}/export`, {
      headers: { Range: `bytes=${first}-${first + size - 1}` },
    });
    const part = await response.blob();
    const range = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get("Content-Range") || "");
    parts.push(part);
    if (!range || part.size === 0) break;
    first = Number(range[2]) + 1;
    total = Number(range[3]);
  }
  return new Blob(parts, { type: "application/json" });
}

function exportCell(request) {
  if (!request.export) return "–";
  if (!request.export.ready) return words.expired;
  return attempt(words.download, async () => {
    const url = URL.createObjectURL(await wholeExport(request.id));
    const link = element("a", "", { href: url, download: `customer-data-${request.id}.json` });
    document.body.append(link);
    link.click();
    link.remove();
    URL.revokeObjectURL(url);
  });
}

root.querySelector("[data-loading]")?.remove();
const sections = [];
root.querySelector("h1").before(button(words.refresh, () => sections.forEach((run) => run())));
sections.push(
  section("installation", words.installation, installation),
  section("live", words.live, liveShop),
  section("customers", words.customers, customers),
  section("requests", words.requests, requests),
);
