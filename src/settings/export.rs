//! What of the settings can be taken elsewhere, read beside a running server or without one.

use std::{collections::HashSet, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::{BUSY_TIMEOUT, OpenError, SavedWebhook, Settings, schema, states, webhooks};
use crate::{push::EndpointId, sqlite};

/// The repositories' webhooks as they stand at one moment.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// Each of them, in the order of their names.
    pub webhooks: Vec<SavedWebhook>,
    /// The endpoints that a hand switched off.
    pub disabled: HashSet<EndpointId>,
}

/// The first schema with repositories' webhooks.
const WITH_WEBHOOKS: i64 = 3;

impl Settings {
    /// Reads what can be exported from the file at `path`, and changes nothing. A server may have it open.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn export(path: &Path) -> Result<Exported, OpenError> {
        let failed = |error| OpenError::from_sqlite(path, error);
        // What a server that was killed left half done is rolled back by whoever reads next, which writes.
        let mut connection =
            sqlite::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, BUSY_TIMEOUT).map_err(failed)?;
        let version = schema::version(&connection).map_err(failed)?;
        match version {
            WITH_WEBHOOKS..=schema::VERSION => read(&mut connection).map_err(failed),
            version if version > schema::VERSION => Err(OpenError::Newer {
                file: path.to_owned(),
                version,
            }),
            _ => Ok(Exported::default()),
        }
    }
}

fn read(connection: &mut Connection) -> rusqlite::Result<Exported> {
    let transaction = connection.transaction()?;
    let states = states::all(&transaction)?;
    let disabled = states.into_iter().filter(|state| state.state == "disabled");
    Ok(Exported {
        webhooks: webhooks::all(&transaction)?,
        disabled: disabled.map(|state| state.endpoint).collect(),
    })
}
