//! What a batch comes to, put together in memory and written down once.
//!
//! A delivery is told of three times or more, and each change of its state is a deletion and an insertion in three
//! indexes. So a row of `deliveries` or `repositories` is read when an entry first touches it, changed here, and
//! written when the batch is at its end. What stands in the tables then is what entry by entry would have left there,
//! down to the ids.

use std::collections::{BTreeMap, btree_map};

use rusqlite::{Connection, TransactionBehavior, params};

use super::{
    entry::{Attempted, DroppedPush, End, Entry, Place, Taken},
    rows::{Attempt, Delivery, Key, Origin, Push, Repository, number},
    spans::Spans,
    store::{Store, StoreError},
    transitions,
};
use crate::{journal::JournalId, push::NOBODY_OWES};

/// Of a delivery that fails for ever, so many attempts are kept: the first, and the newest.
const ATTEMPTS_FIRST: i64 = 10;
const ATTEMPTS_NEWEST: i64 = 90;

/// The journal as its pushes are numbered in the file.
pub(super) fn origin(store: &Store, journal: JournalId) -> Result<Origin, StoreError> {
    let number = store.journal(journal)?;
    Ok(Origin { journal, number })
}

/// Writes a batch in one transaction; how many rows it took. `read` says of which file, and how far it was read then.
pub(super) fn write_batch(
    store: &mut Store,
    origin: Origin,
    batch: &[Entry<'_>],
    read: Option<(i64, usize)>,
    log_bytes_max: u64,
) -> Result<u64, StoreError> {
    // Somebody who reads for long keeps SQLite from beginning its log anew, which then would grow without bound.
    if store.wal_bytes() > log_bytes_max && store.checkpoint()? {
        return Err(StoreError::Unusable(
            "another program has been reading it for long".to_owned(),
        ));
    }
    let begun = store
        .connection
        .transaction_with_behavior(TransactionBehavior::Immediate)?;
    let rows = write(&begun, origin, batch)?;
    if let Some((file, position)) = read {
        let sql = "INSERT OR REPLACE INTO overflow (one, file, position) VALUES (1, ?1, ?2)";
        let values = params![file, number(position as u64)];
        begun.prepare_cached(sql)?.execute(values)?;
    }
    begun.commit()?;
    Ok(rows)
}

/// Writes entries down; how many rows that took.
pub(super) fn write(connection: &Connection, origin: Origin, entries: &[Entry<'_>]) -> rusqlite::Result<u64> {
    let mut gathered = Gathered::new(connection, origin)?;
    for entry in entries {
        gathered.add(entry)?;
    }
    gathered.write()
}

/// Rows that are not written yet, within a transaction.
struct Gathered<'a> {
    connection: &'a Connection,
    origin: Origin,
    /// No push and no delivery in the file has a larger id.
    newest: i64,
    pushes: BTreeMap<i64, Push<'a>>,
    deliveries: BTreeMap<Key<'a>, Delivery<'a>>,
    /// In the order in which they were told, which is that of their ids.
    attempts: Vec<Attempt<'a>>,
    /// Attempts that give way to newer ones: of which delivery, and their numbers.
    outdated: Vec<(Key<'a>, i64)>,
    repositories: BTreeMap<&'a str, Repository<'a>>,
    spans: Spans,
    rows: u64,
}

impl<'a> Gathered<'a> {
    fn new(connection: &'a Connection, origin: Origin) -> rusqlite::Result<Self> {
        let sql = "SELECT max(ifnull((SELECT max(id) FROM pushes), 0), ifnull((SELECT max(push) FROM deliveries), 0))";
        let newest = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(Self {
            connection,
            origin,
            newest,
            pushes: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            attempts: Vec::new(),
            outdated: Vec::new(),
            repositories: BTreeMap::new(),
            spans: Spans::default(),
            rows: 0,
        })
    }

    /// Adds an entry, told after all others.
    fn add(&mut self, entry: &'a Entry<'a>) -> rusqlite::Result<()> {
        match entry {
            Entry::Taken(taken) => self.taken(taken),
            Entry::Dropped(dropped) => self.dropped(dropped),
            Entry::Attempted(place, attempted) => self.attempted(place, attempted),
            Entry::Waits(place, at) => self.waits(place, *at),
            Entry::Ended(place, end) => self.ended(place, end),
            Entry::Buried(sequence, endpoint, end) => self.buried(*sequence, endpoint, end),
            Entry::Known(name) => self.known(name),
            Entry::Restored(taken) => self.restored(taken),
            Entry::Settled(place, how) => self.settled(place, how),
            Entry::Sized(name, size, at) => self.sized(name, *size, *at),
            Entry::Changed(changed) => {
                self.rows += transitions::write(self.connection, changed)?;
                Ok(())
            }
        }
    }

    /// The repository is there from now on, if it was not before.
    fn known(&mut self, name: &'a str) -> rusqlite::Result<()> {
        let (_, made) = self.here(name)?;
        self.rows += made;
        Ok(())
    }

    fn taken(&mut self, taken: &'a Taken<'a>) -> rusqlite::Result<()> {
        let Some(push) = self.origin.row(taken.sequence) else {
            return Ok(());
        };
        self.pushes.insert(push, Push::Taken(taken));
        self.pushed(taken.repository, taken.tag, taken.at)?;
        self.spans.note(push, taken.at);
        for endpoint in &taken.owed {
            let key = (push, *endpoint);
            if self.delivery(key)?.is_none() {
                self.deliveries.insert(key, Delivery::pending(taken.repository));
            }
        }
        self.rows += 1 + taken.owed.len() as u64;
        Ok(())
    }

    /// The same as [`taken`](Self::taken), unless that was told before.
    fn restored(&mut self, taken: &'a Taken<'a>) -> rusqlite::Result<()> {
        let Some(push) = self.origin.row(taken.sequence) else {
            return Ok(());
        };
        let is_known = match self.pushes.get(&push) {
            Some(Push::Taken(_)) => true,
            _ if push > self.newest => false,
            _ => {
                let sql = "SELECT EXISTS (SELECT 1 FROM pushes WHERE id = ?1 AND taken_at IS NOT NULL)";
                let mut statement = self.connection.prepare_cached(sql)?;
                statement.query_row([push], |row| row.get(0))?
            }
        };
        if is_known { Ok(()) } else { self.taken(taken) }
    }

    /// The repository was pushed to.
    fn pushed(&mut self, name: &'a str, tag: &'a str, at: i64) -> rusqlite::Result<()> {
        let (repository, _) = self.here(name)?;
        repository.last_push_at = repository.last_push_at.max(Some(at));
        repository.pushes += 1;
        repository.pushed = Some(tag);
        Ok(())
    }

    fn dropped(&mut self, dropped: &'a DroppedPush<'a>) -> rusqlite::Result<()> {
        let sql = "INSERT INTO dropped (at, rule, repository, tag, digest, event_id, actor) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        self.connection.prepare_cached(sql)?.execute(params![
            dropped.at,
            dropped.rule,
            dropped.repository,
            dropped.tag,
            dropped.digest,
            dropped.event_id,
            dropped.actor
        ])?;
        self.rows += 1;
        // Somebody may want to give it a webhook now.
        if dropped.rule == NOBODY_OWES {
            self.pushed(dropped.repository, dropped.tag, dropped.at)?;
        }
        Ok(())
    }

    fn attempted(&mut self, place: &'a Place<'a>, told: &'a Attempted<'a>) -> rusqlite::Result<()> {
        let Some(push) = self.origin.row(place.sequence) else {
            return Ok(());
        };
        let key = (push, place.endpoint);
        let newest = self.attempts.len();
        let delivery = self.owed(key, place, Some(told.digest))?;
        delivery.attempts += 1;
        delivery.next_at = None;
        delivery.image_size = told.image_size.map(number);
        delivery.layers = told.image_size.map(|_| number(told.layers));
        let told_before = std::mem::replace(&mut delivery.repository_size, told.repository_size.map(number));
        delivery.newest = Some(newest);
        let attempts = delivery.attempts;
        self.attempts.push(Attempt {
            key,
            number: attempts,
            retry_at: None,
            told,
        });
        let outdated = attempts - ATTEMPTS_NEWEST;
        if outdated > ATTEMPTS_FIRST {
            self.outdated.push((key, outdated));
        }
        // One that is tried again tells the size that was found for the first: the repository may have changed since.
        if let Some(size) = told.repository_size
            && told_before != Some(number(size))
        {
            self.sized(place.repository, size, told.at)?;
        }
        self.rows += 1;
        Ok(())
    }

    /// How large a repository was then, if it is known here.
    fn sized(&mut self, name: &'a str, size: u64, at: i64) -> rusqlite::Result<()> {
        if let Some(repository) = self.repository(name)? {
            repository.sized(number(size), at);
        }
        Ok(())
    }

    fn waits(&mut self, place: &'a Place<'a>, at: i64) -> rusqlite::Result<()> {
        let Some(push) = self.origin.row(place.sequence) else {
            return Ok(());
        };
        let key = (push, place.endpoint);
        let Some(delivery) = self.delivery(key)? else {
            return Ok(());
        };
        delivery.next_at = Some(at);
        let (newest, attempts) = (delivery.newest, delivery.attempts);
        if let Some(attempt) = newest.and_then(|newest| self.attempts.get_mut(newest)) {
            attempt.retry_at = Some(at);
            return Ok(());
        }
        let sql = "UPDATE attempts SET retry_at = ?4 WHERE push = ?1 AND endpoint = ?2 AND number = ?3";
        let values = params![key.0, key.1, attempts, at];
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    fn ended(&mut self, place: &'a Place<'a>, end: &'a End<'a>) -> rusqlite::Result<()> {
        let Some(push) = self.origin.row(place.sequence) else {
            return Ok(());
        };
        self.owed((push, place.endpoint), place, None)?.ends(end);
        self.rows += 1;
        Ok(())
    }

    /// The delivery ended, unless it is known how, or it is not there.
    fn settled(&mut self, place: &'a Place<'a>, how: &'a str) -> rusqlite::Result<()> {
        let Some(push) = self.origin.row(place.sequence) else {
            return Ok(());
        };
        if let Some(delivery) = self.delivery((push, place.endpoint))?
            && delivery.is_open
        {
            delivery.is_settled(how);
            self.rows += 1;
        }
        Ok(())
    }

    fn buried(&mut self, sequence: u64, endpoint: &'a str, end: &'a End<'a>) -> rusqlite::Result<()> {
        let Some(push) = self.origin.row(sequence) else {
            return Ok(());
        };
        if let Some(delivery) = self.delivery((push, endpoint))? {
            delivery.ends(end);
            self.rows += 1;
        }
        Ok(())
    }

    /// The repository, if it is there.
    fn repository(&mut self, name: &'a str) -> rusqlite::Result<Option<&mut Repository<'a>>> {
        Ok(match self.repositories.entry(name) {
            btree_map::Entry::Occupied(known) => Some(known.into_mut()),
            btree_map::Entry::Vacant(vacant) => {
                Repository::read(self.connection, name)?.map(|read| vacant.insert(read))
            }
        })
    }

    /// The repository, which is there from now on, and how many rows that took.
    fn here(&mut self, name: &'a str) -> rusqlite::Result<(&mut Repository<'a>, u64)> {
        let vacant = match self.repositories.entry(name) {
            btree_map::Entry::Occupied(known) => return Ok((known.into_mut(), 0)),
            btree_map::Entry::Vacant(vacant) => vacant,
        };
        Ok(match Repository::read(self.connection, name)? {
            Some(read) => (vacant.insert(read), 0),
            None => (vacant.insert(Repository::never_pushed_to()), 1),
        })
    }

    /// The delivery, if it is there.
    fn delivery(&mut self, key: Key<'a>) -> rusqlite::Result<Option<&mut Delivery<'a>>> {
        Ok(match self.deliveries.entry(key) {
            btree_map::Entry::Occupied(known) => Some(known.into_mut()),
            btree_map::Entry::Vacant(_) if key.0 > self.newest => None,
            btree_map::Entry::Vacant(vacant) => {
                Delivery::read(self.connection, key)?.map(|read| vacant.insert(read))
            }
        })
    }

    /// The delivery, which is made up for if it was not written down when its push was taken.
    fn owed(
        &mut self,
        key: Key<'a>,
        place: &'a Place<'a>,
        digest: Option<&'a str>,
    ) -> rusqlite::Result<&mut Delivery<'a>> {
        if self.delivery(key)?.is_none() {
            self.pushes.entry(key.0).or_insert(Push::MadeUp(place, digest));
            self.here(place.repository)?;
        }
        Ok(self
            .deliveries
            .entry(key)
            .or_insert_with(|| Delivery::pending(place.repository)))
    }

    /// Writes it all down; how many rows that took.
    fn write(self) -> rusqlite::Result<u64> {
        for (id, push) in &self.pushes {
            push.write(self.connection, *id, *id > self.newest)?;
        }
        for (key, delivery) in &self.deliveries {
            delivery.write(self.connection, self.origin, *key)?;
        }
        for attempt in &self.attempts {
            attempt.write(self.connection)?;
        }
        for ((push, endpoint), number) in &self.outdated {
            let sql = "DELETE FROM attempts WHERE push = ?1 AND endpoint = ?2 AND number = ?3";
            let values = params![push, endpoint, number];
            self.connection.prepare_cached(sql)?.execute(values)?;
        }
        for (name, repository) in &self.repositories {
            repository.write(self.connection, name)?;
        }
        self.spans.write(self.connection)?;
        Ok(self.rows)
    }
}
