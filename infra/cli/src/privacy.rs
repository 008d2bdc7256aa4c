//! `gatehouse privacy`: the ledger, which holds no personal data, as it stands.

use gatehouse_core::clock;
use gatehouse_core::privacy::{Entry, RequestId};
use gatehouse_core::store::Cursor;
use gatehouse_shopify::ShopDomain;
use serde_json::{Value, json};

use crate::target::Target;
use crate::{CliError, table};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// A shop's requests, newest first; without a shop, all open ones, by the index.
    List {
        /// `name.myshopify.com`
        #[arg(long)]
        shop: Option<String>,
    },
    /// One request, with what was done about it.
    Show {
        /// `name.myshopify.com`
        shop: String,
        /// As `list` names it.
        id: String,
    },
}

fn shop_of(text: &str) -> Result<ShopDomain, CliError> {
    ShopDomain::parse(text).map_err(|_| CliError::Argument("the shop must be written as name.myshopify.com"))
}

fn value(shop: &ShopDomain, entry: &Entry) -> Value {
    json!({
        "shop": shop,
        "id": entry.id.to_string(),
        "topic": entry.topic,
        "state": entry.state,
        "received_at": entry.received_at.to_rfc3339(),
        "due_at": entry.due_at.to_rfc3339(),
        "updated_at": entry.updated_at.to_rfc3339(),
        "closed_at": entry.closed_at.map(|at| at.to_rfc3339()),
        "attempts": entry.attempts,
        "counts": entry.counts,
        "decision": entry.decision,
        "failure": entry.failure,
        "export_bytes": entry.export_bytes,
        "export_expires_at": entry.export_expires_at.map(|at| at.to_rfc3339()),
    })
}

pub(crate) async fn run(command: Command, target: &Target, json: bool) -> Result<bool, CliError> {
    let privacy = target.open().await?.privacy;
    match command {
        Command::List { shop } => {
            let mut found = Vec::new();
            match shop {
                Some(shop) => {
                    let shop = shop_of(&shop)?;
                    let mut after: Option<Cursor> = None;
                    loop {
                        let (entries, next) = privacy.list(&shop, after.as_ref(), 100).await?;
                        found.extend(entries.into_iter().map(|entry| (shop.clone(), entry)));
                        match next {
                            Some(next) => after = Some(next),
                            None => break,
                        }
                    }
                }
                None => {
                    let open = privacy.near_deadline(clock::now(), 400 * 86_400).await?;
                    found.extend(open.into_iter().map(|open| (open.shop, open.entry)));
                    found.sort_by_key(|(_, entry)| entry.due_at);
                }
            }
            if json {
                println!("{}", Value::Array(found.iter().map(|(shop, entry)| value(shop, entry)).collect()));
                return Ok(true);
            }
            let row = |(shop, entry): &(ShopDomain, Entry)| {
                let (id, state) = (entry.id.to_string(), entry.state.as_str().to_owned());
                vec![shop.to_string(), id, entry.topic.to_owned(), state, entry.due_at.to_rfc3339()]
            };
            table(&["SHOP", "REQUEST", "TOPIC", "STATE", "DUE"], &found.iter().map(row).collect::<Vec<_>>());
        }
        Command::Show { shop, id } => {
            let shop = shop_of(&shop)?;
            let id =
                RequestId::parse(&id).ok_or(CliError::Argument("this is no request's name: see `privacy list`"))?;
            let Some(entry) = privacy.get(&shop, &id).await? else {
                return Err(CliError::Argument("the shop has no such request"));
            };
            let value = value(&shop, &entry);
            if json {
                println!("{value}");
            } else {
                for (name, value) in value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                    println!("{name:<18} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                }
            }
        }
    }
    Ok(true)
}
