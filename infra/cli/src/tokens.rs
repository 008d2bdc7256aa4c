//! `gatehouse tokens`: what the index says of all installations, and the migration of tokens that do not expire.
//!
//! The index names every shop whose tokens are kept, those that need their merchant among them. Shops that have removed the
//! app are not in it, and no command scans the table for them: give their domains with `--shops` to have them counted too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use gatehouse_core::clock;
use gatehouse_core::store::{Due, DueCursor, DueRow};
use gatehouse_core::vault::{Installation, Vault};
use gatehouse_shopify::{ShopDomain, Timestamp};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::target::Target;
use crate::{CliError, table};

/// Reads under way at once.
const READS: usize = 16;
/// How many of the soonest deaths are shown.
const SOONEST: usize = 10;
/// The longest that one migration may take, in seconds.
const ONE_SHOP: i64 = 40;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Counts installations by state, and names those whose refresh tokens die next.
    Status {
        /// A file with one shop domain a line, counted beside what the index names.
        #[arg(long)]
        shops: Option<PathBuf>,
    },
    /// Exchanges tokens that do not expire for pairs that do. Goes on where it stopped; may be run twice.
    Migrate(Migrate),
}

#[derive(Args)]
pub(crate) struct Migrate {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Shops a second, at most.
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Stop after this many migrations.
    #[arg(long)]
    most: Option<u64>,
    /// Where it is noted how far it has come.
    #[arg(long, default_value = "gatehouse-migrate.json")]
    state: PathBuf,
}

pub(crate) async fn run(command: Command, target: &Target, json: bool) -> Result<bool, CliError> {
    let vault = target.open().await?.vault;
    match command {
        Command::Status { shops } => status(&vault, shops.as_deref(), json).await,
        Command::Migrate(arguments) => migrate(&vault, &arguments, json).await,
    }
}

/// Whether a shop's token lives, in one word.
fn state(installation: &Installation, now: Timestamp) -> &'static str {
    match installation.status.as_str() {
        "installed" if installation.is_non_expiring() => "non_expiring",
        "installed" if installation.refresh_expires.is_some_and(|end| end <= now) => "refresh_token_expired",
        "installed" if installation.access_expires.is_some_and(|end| end <= now) => "idle",
        "installed" => "live",
        other => other,
    }
}

async fn status(vault: &Vault, shops: Option<&Path>, json: bool) -> Result<bool, CliError> {
    let now = clock::now();
    let mut named: Vec<ShopDomain> = Vec::new();
    for shard in Due::Install.shards() {
        let mut after = None;
        loop {
            let (rows, next) = vault.table().due(&shard, Due::NEVER, after, 1000).await?;
            named.extend(rows.into_iter().map(|row| row.shop));
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    if let Some(path) = shops {
        let text = std::fs::read_to_string(path).map_err(|e| file(path, &e))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            named
                .push(ShopDomain::parse(line).map_err(|_| CliError::Argument("--shops holds a line that is no shop"))?);
        }
    }
    named.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    named.dedup();
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut ends = Vec::new();
    let mut found = stream::iter(&named).map(|shop| Box::pin(vault.installation(shop))).buffer_unordered(READS);
    while let Some(installation) = found.next().await {
        let Some(installation) = installation? else {
            *counts.entry("unknown").or_default() += 1;
            continue;
        };
        *counts.entry(state(&installation, now)).or_default() += 1;
        if installation.due_at.is_some_and(|due| due <= now) {
            *counts.entry("due_now").or_default() += 1;
        }
        if let Some(end) = installation.refresh_expires.filter(|_| installation.has_access) {
            ends.push((end, installation.shop));
        }
    }
    drop(found);
    ends.sort_by_key(|(end, _)| *end);
    ends.truncate(SOONEST);
    if json {
        let soonest = ends.iter().map(|(end, shop)| json!({ "shop": shop, "refresh_token_ends": end.to_rfc3339() }));
        println!("{}", json!({ "shops": named.len(), "states": counts, "soonest": soonest.collect::<Vec<_>>() }));
    } else {
        let rows: Vec<_> = counts.iter().map(|(state, number)| vec![(*state).to_owned(), number.to_string()]).collect();
        table(&["STATE", "SHOPS"], &rows);
        println!();
        let rows: Vec<_> = ends.iter().map(|(end, shop)| vec![shop.to_string(), end.to_rfc3339()]).collect();
        table(&["SOONEST DEATHS", "REFRESH TOKEN ENDS"], &rows);
    }
    Ok(true)
}

/// How far a migration has come: behind this row of the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    table: String,
    shop: ShopDomain,
    due_at: i64,
}

impl Place {
    fn read(path: &Path, table: &str) -> Result<Option<Self>, CliError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file(path, &error)),
        };
        let place: Self = serde_json::from_str(&text).map_err(|error| file(path, &error))?;
        if place.table != table {
            return Err(CliError::Argument("the state file is another table's: name another one with --state"));
        }
        Ok(Some(place))
    }

    fn write(&self, path: &Path) -> Result<(), CliError> {
        let text = serde_json::to_string(self).map_err(|error| file(path, &error))?;
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path)).map_err(|e| file(path, &e))
    }
}

fn file(path: &Path, error: &impl ToString) -> CliError {
    CliError::File(path.display().to_string(), error.to_string())
}

async fn migrate(vault: &Vault, arguments: &Migrate, json: bool) -> Result<bool, CliError> {
    if !(arguments.rate > 0.0 && arguments.rate <= 1000.0) {
        return Err(CliError::Argument("--rate must be more than 0 and at most 1000"));
    }
    // Tokens that do not expire are due since they were got; what the keeper failed for is put off, by a day at most.
    let until = clock::now().plus_secs(86_400);
    let place = if arguments.dry_run { None } else { Place::read(&arguments.state, vault.table().name())? };
    let resumed = place.is_some();
    let mut due: Vec<DueRow> = Vec::new();
    let mut shards: Vec<String> = Due::Install.shards().collect();
    let mut after = None;
    if let Some(place) = &place {
        let shard = Due::Install.shard_of(&place.shop);
        shards.retain(|known| *known >= shard);
        after = Some(DueCursor::behind_install(&place.shop, Timestamp::from_secs(place.due_at)));
    }
    for shard in shards {
        loop {
            let (rows, next) = vault.table().due(&shard, until, after.take(), 1000).await?;
            due.extend(rows);
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    let bar = if json { ProgressBar::hidden() } else { ProgressBar::new(due.len() as u64) };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / arguments.rate));
    let (mut found, mut migrated, mut failed) = (0_u64, 0_u64, Vec::new());
    let mut stopped = false;
    for row in due {
        if arguments.most.is_some_and(|most| found >= most) {
            stopped = true;
            break;
        }
        bar.inc(1);
        let waiting = vault.installation(&row.shop).await?.is_some_and(|i| i.is_non_expiring());
        if waiting {
            found += 1;
            if !arguments.dry_run {
                pace.tick().await;
                bar.set_message(row.shop.to_string());
                match vault.migrate(&row.shop, clock::now().plus_secs(ONE_SHOP)).await {
                    Ok(_) => migrated += 1,
                    Err(error) => failed.push((row.shop.clone(), error.code())),
                }
            }
        }
        if !arguments.dry_run {
            let table = vault.table().name().to_owned();
            Place { table, shop: row.shop, due_at: row.due_at.secs() }.write(&arguments.state)?;
        }
    }
    bar.finish_and_clear();
    if !arguments.dry_run && !stopped {
        // At the end: the next run looks at all again, those that failed among them.
        match std::fs::remove_file(&arguments.state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file(&arguments.state, &error)),
            _ => {}
        }
    }
    if json {
        let failures: Vec<_> = failed.iter().map(|(shop, code)| json!({ "shop": shop, "code": code })).collect();
        println!(
            "{}",
            json!({
                "dry_run": arguments.dry_run, "resumed": resumed, "finished": !stopped, "found": found,
                "migrated": migrated, "failed": failures,
            })
        );
    } else {
        let would = if arguments.dry_run { "would be migrated" } else { "found" };
        println!("{found} shops {would}, {migrated} migrated, {} failed", failed.len());
        for (shop, code) in &failed {
            println!("{shop}: {code}");
        }
        if stopped {
            println!("Stopped as asked; run it again to go on.");
        }
    }
    Ok(failed.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_and_belongs_to_its_table() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(Place::read(&path, "t").unwrap(), None);
        let shop = ShopDomain::parse("one.myshopify.com").unwrap();
        let place = Place { table: "t".to_owned(), shop, due_at: 7 };
        place.write(&path).unwrap();
        assert_eq!(Place::read(&path, "t").unwrap(), Some(place));
        assert!(Place::read(&path, "another").is_err());
        std::fs::write(&path, "nonsense").unwrap();
        assert!(Place::read(&path, "t").is_err());
    }
}
