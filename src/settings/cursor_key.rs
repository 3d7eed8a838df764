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
    if let Some(key) = read(connection)? {
        return Ok(key);
    }
    make(connection)?;
    read(connection)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn read(connection: &Connection) -> rusqlite::Result<Option<CursorKey>> {
    let key = |row: &rusqlite::Row<'_>| row.get(0).map(CursorKey);
    connection
        .query_row("SELECT value FROM cursor_key", (), key)
        .optional()
}

/// Makes a key unless another process has made one meanwhile.
fn make(connection: &Connection) -> rusqlite::Result<()> {
    let key: [u8; KEY_BYTES] = rand::random();
    let sql = "INSERT INTO cursor_key SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM cursor_key)";
    connection.execute(sql, [key])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_who_make_a_key_at_once_both_have_the_first() {
        let connection = Connection::open_in_memory().unwrap();
        let schema = "CREATE TABLE cursor_key (value BLOB NOT NULL) STRICT";
        connection.execute_batch(schema).unwrap();
        assert!(read(&connection).unwrap().is_none());
        make(&connection).unwrap();
        let first = read_or_make(&connection).unwrap();
        make(&connection).unwrap();
        assert_eq!(read_or_make(&connection).unwrap().bytes(), first.bytes());
        let keys = "SELECT count(*) FROM cursor_key";
        let keys: i64 = connection.query_row(keys, (), |row| row.get(0)).unwrap();
        assert_eq!(keys, 1);
    }
}
