//! How a database is opened, whichever it is.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

/// Opens the database at `path` for one thread at a time. Whoever finds it locked waits for `busy_max`.
///
/// # Errors
/// It can't be opened: nobody has to have looked into it yet.
pub(crate) fn open(path: &Path, flags: OpenFlags, busy_max: Duration) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(busy_max)?;
    // A statement is planned once. Else SQLite plans many of them anew whenever they are given other values, in case these
    // make a difference; that takes longer than what is looked up. See <https://sqlite.org/compile.html#enable_qpsg>.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Opens the database at `path` for whoever makes its tables and indexes.
///
/// # Errors
/// See [`open`].
pub(crate) fn open_to_fill(path: &Path, busy_max: Duration) -> rusqlite::Result<Connection> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, busy_max)?;
    // What a large index is sorted in goes beside the file: a container may have no other folder to write to.
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        connection.pragma_update(None, "temp_store_directory", folder.to_string_lossy())?;
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn a_statement_is_planned_once_whatever_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = open(&path, flags, Duration::ZERO).unwrap();
        let schema = "CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT) STRICT; CREATE INDEX by_name ON names (name)";
        connection.execute_batch(schema).unwrap();
        let sql = "SELECT id FROM names WHERE name = ?1 AND id <= ?2 ORDER BY id DESC LIMIT ?3";
        let mut statement = connection.prepare(sql).unwrap();
        for limit in 0..9_i64 {
            let found = statement.exists((limit.to_string(), 9 - limit, limit)).unwrap();
            assert!(!found);
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}
