//! What dead letters take of the file: the pages in use, but for those of everything else.
//!
//! Everything else is looked through at the start, and from then on each of its writes tells by how much it grew, before it
//! is committed. So letters are weighed as they are in the file, however many there are, and no letter goes for what others
//! keep there.

use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, TransactionBehavior};

use super::{AccessError, Settings, WebhookStats, webhooks};

/// The tables of letters; indexes go with their tables.
const OF_LETTERS: &str = "'dead_letters', 'replays', 'letter_spans'";

/// What is known of the letters without looking.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) letters: AtomicU64,
    pub(super) replaying: AtomicU64,
    /// All pages in use, as they were seen last; bytes.
    pub(super) used: AtomicU64,
    /// Those of them that are not of letters.
    others: AtomicU64,
    webhooks: AtomicU64,
    webhook_bytes: AtomicU64,
}

impl Tally {
    /// Counts what is there.
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let count = |sql: &str| connection.query_row(sql, (), |row| row.get::<_, i64>(0));
        let others = format!(
            "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE aggregate = 1 AND name IN \
             (SELECT name FROM sqlite_schema WHERE rootpage > 0 AND tbl_name NOT IN ({OF_LETTERS}))"
        );
        let tally = Self::default();
        tally.add(
            count("SELECT count(*) FROM dead_letters")?,
            count("SELECT count(*) FROM replays")?,
        );
        let others = u64::try_from(count(&others)?).unwrap_or_default();
        tally.others.store(others, Ordering::Relaxed);
        tally.webhooks_changed(WebhookStats::default(), webhooks::stats(connection, None)?);
        tally.weigh(connection);
        Ok(tally)
    }

    /// Takes note of what was committed.
    pub(super) fn add(&self, letters: i64, replaying: i64) {
        // Two's complement: adding a negative number wraps around to less.
        self.letters.fetch_add(letters.cast_unsigned(), Ordering::Relaxed);
        self.replaying
            .fetch_add(replaying.cast_unsigned(), Ordering::Relaxed);
    }

    /// Takes note of a repository's webhook that was committed.
    pub(super) fn webhooks_changed(&self, before: WebhookStats, after: WebhookStats) {
        let add = |to: &AtomicU64, before: u64, after: u64| {
            to.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        };
        add(&self.webhooks, before.webhooks, after.webhooks);
        add(&self.webhook_bytes, before.bytes, after.bytes);
    }

    pub(super) fn webhooks(&self) -> WebhookStats {
        WebhookStats {
            webhooks: self.webhooks.load(Ordering::Relaxed),
            bytes: self.webhook_bytes.load(Ordering::Relaxed),
        }
    }

    /// Takes note of what the file holds.
    pub(super) fn weigh(&self, connection: &Connection) {
        if let Ok(bytes) = used_bytes(connection) {
            self.used.store(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes of letters, when so many are in use.
    pub(super) fn of_letters(&self, used: u64) -> u64 {
        used.saturating_sub(self.others.load(Ordering::Relaxed))
    }
}

impl Settings {
    /// Writes what is no letter: all of it, or nothing.
    pub(super) fn write<T, E: From<AccessError>>(
        &self,
        write: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = |error| E::from(AccessError(error));
        let mut connection = self.connection();
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let before = used_bytes(&transaction).map_err(failed)?;
        let written = write(&transaction)?;
        let after = used_bytes(&transaction).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        let tally = &self.0.tally;
        // It may be less, which wraps around as well.
        tally
            .others
            .fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        tally.used.store(after, Ordering::Relaxed);
        Ok(written)
    }
}

/// Bytes of the pages that hold something, in the middle of a transaction too.
pub(super) fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    let bytes = pages.saturating_mul(pragma("page_size")?);
    Ok(u64::try_from(bytes).unwrap_or_default())
}
