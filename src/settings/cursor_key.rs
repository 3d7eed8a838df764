//! The key that cursors of lists are sealed with. It is made once, and kept so that a cursor outlives a restart; without
//! it nothing is lost but those that people hold.

use std::fmt;

use rusqlite::{Connection, OptionalExtension};

const KEY_BYTES: usize = 32;

/// A key. Never prints.
pub struct CursorKey([u8; KEY_BYTES]);

impl CursorKey {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl From<[u8; KEY_BYTES]> for CursorKey {
    fn from(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The key that is there, or a new one, durable.
pub(super) fn read_or_make(connection: &Connection) -> rusqlite::Result<CursorKey> {
    let read = |row: &rusqlite::Row<'_>| row.get(0).map(CursorKey);
    let there = connection.query_row("SELECT value FROM cursor_key", (), read);
    if let Some(key) = there.optional()? {
        return Ok(key);
    }
    let key: [u8; KEY_BYTES] = rand::random();
    connection.execute("INSERT INTO cursor_key VALUES (?1)", [key])?;
    Ok(CursorKey(key))
}
