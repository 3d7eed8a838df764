//! Values that no log line, page or error may show, given in the configuration or in a file.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use secrecy::SecretString;

use crate::stamp::Stamp;

/// The most bytes that a secret's file may have: far above any token, far below any accident.
pub const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// A secret: written in the configuration, or in a file that is read again whenever it changes.
///
/// Cheap to clone; prints as `[secret]` or as the file's path.
#[derive(Clone)]
pub struct Secret(Arc<Source>);

enum Source {
    Inline(SecretString),
    File {
        path: PathBuf,
        last: Mutex<Option<(Stamp, SecretString)>>,
    },
}

impl Secret {
    /// The secret `value` itself.
    #[must_use]
    pub fn inline(value: impl Into<String>) -> Self {
        Self(Arc::new(Source::Inline(SecretString::from(value.into()))))
    }

    /// The secret that the file at `path` holds, without the line break at its end.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Source::File {
            path: path.into(),
            last: Mutex::new(None),
        }))
    }

    /// The file it comes from, if it comes from one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &*self.0 {
            Source::Inline(_) => None,
            Source::File { path, .. } => Some(path),
        }
    }

    /// The secret as it stands now. A file is read again when it changed; one that can't be read any
    /// more keeps its last value, so that a rotation half done doesn't stop deliveries.
    ///
    /// # Errors
    /// The file can't be read and never could, is larger than [`SECRET_FILE_BYTES_MAX`], or is not UTF-8.
    pub fn get(&self) -> io::Result<SecretString> {
        let (path, last) = match &*self.0 {
            Source::Inline(value) => return Ok(value.clone()),
            Source::File { path, last } => (path, last),
        };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        match (
            read_if_changed(path, last.as_ref().map(|(stamp, _)| *stamp)),
            &*last,
        ) {
            (Ok(Some((stamp, value))), _) => {
                *last = Some((stamp, value.clone()));
                Ok(value)
            }
            (Ok(None) | Err(_), Some((_, value))) => Ok(value.clone()),
            (Ok(None), None) => Err(io::Error::other("the secret's file was never read")),
            (Err(error), None) => Err(error),
        }
    }
}

fn read_if_changed(path: &Path, known: Option<Stamp>) -> io::Result<Option<(Stamp, SecretString)>> {
    let meta = fs::metadata(path)?;
    let stamp = Stamp::of_metadata(&meta);
    if known == Some(stamp) {
        return Ok(None);
    }
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if meta.len() > SECRET_FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a secret's file has at most 64 KiB",
        ));
    }
    let mut text = fs::read_to_string(path)?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(Some((stamp, SecretString::from(text))))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            None => f.write_str("[secret]"),
            Some(path) => write!(f, "[secret in {}]", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_changed_and_kept_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let secret = Secret::file(&path);
        assert!(secret.get().is_err());
        fs::write(&path, "first\n").unwrap();
        assert_eq!(secret.get().unwrap().expose_secret(), "first");
        fs::write(&path, "second one\r\n").unwrap();
        assert_eq!(secret.get().unwrap().expose_secret(), "second one");
        fs::remove_file(&path).unwrap();
        assert_eq!(secret.get().unwrap().expose_secret(), "second one");
    }

    #[test]
    fn a_secret_never_prints() {
        assert_eq!(format!("{:?}", Secret::inline("hunter2")), "[secret]");
    }
}
