//! Values that no log line, page or error may show, given in the configuration or in a file.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    locked::Locked as _,
    stamp::{Stamp, Versions},
};

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
        check: Check,
        /// What it held last that was sound, and in which version.
        last: Mutex<Option<(Versions<1>, SecretString)>>,
    },
}

/// Says what is wrong with a secret's text, without repeating it.
pub type Check = fn(&str) -> Result<(), String>;

impl Secret {
    /// The secret `value` itself.
    #[must_use]
    pub fn inline(value: impl Into<String>) -> Self {
        Self(Arc::new(Source::Inline(SecretString::from(value.into()))))
    }

    /// The secret that the file at `path` holds, without the line break at its end.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::checked_file(path, |_| Ok(()))
    }

    /// The same of a secret that has a form: what `check` refuses takes the place of nothing that it took.
    #[must_use]
    pub fn checked_file(path: impl Into<PathBuf>, check: Check) -> Self {
        Self(Arc::new(Source::File {
            path: path.into(),
            check,
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

    /// The secret as it stands now. A file is read again when it changed. One that can't be read any more, or doesn't hold
    /// what it should, as one that is being written, keeps its last value, and the log says so once. If it has none yet,
    /// what the file holds is told as it is.
    ///
    /// # Errors
    /// The file can't be read and never could, is larger than [`SECRET_FILE_BYTES_MAX`], or is not UTF-8.
    pub fn get(&self) -> io::Result<SecretString> {
        let (path, check, last) = match &*self.0 {
            Source::Inline(value) => return Ok(value.clone()),
            Source::File { path, check, last } => (path, *check, last),
        };
        // Before it is read: what is written meanwhile is read the next time.
        let (stamps, now) = ([Stamp::of(path)], Instant::now());
        let mut last = last.locked();
        let Some((versions, value)) = &mut *last else {
            let value = read(path)?;
            if check(value.expose_secret()).is_ok() {
                *last = Some((Versions::of(stamps), value.clone()));
            }
            return Ok(value);
        };
        if versions.are_due(stamps, now) {
            let read = read(path).map_err(|error| error.to_string());
            match read.and_then(|text| check(text.expose_secret()).map(|()| text)) {
                Ok(text) => (*versions, *value) = (Versions::of(stamps), text),
                Err(error) if versions.refuse(stamps, now) => {
                    warn!(file = %path.display(), error, "a secret's file can't be used, and what it held before is");
                }
                Err(_) => {}
            }
        }
        Ok(value.clone())
    }
}

fn read(path: &Path) -> io::Result<SecretString> {
    let meta = fs::metadata(path)?;
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
    Ok(SecretString::from(text))
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
    fn a_file_that_is_being_written_keeps_what_it_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let check: Check = |text| match text.trim() {
            "" => Err("it is empty".to_owned()),
            _ => Ok(()),
        };
        let (secret, any) = (Secret::checked_file(&path, check), Secret::file(&path));
        let now = || secret.get().unwrap().expose_secret().to_owned();
        fs::write(&path, "\n").unwrap();
        assert_eq!(now(), "", "there was nothing before");
        fs::write(&path, "first\n").unwrap();
        assert_eq!(now(), "first");
        for empty in ["", "\n", " \r\n"] {
            fs::write(&path, empty).unwrap();
            assert_eq!(now(), "first", "{empty:?}");
            assert_eq!(
                any.get().unwrap().expose_secret().trim(),
                "",
                "without a form, that is it"
            );
        }
        fs::write(&path, "second\n").unwrap();
        assert_eq!(now(), "second");
    }

    #[test]
    fn a_secret_never_prints() {
        assert_eq!(format!("{:?}", Secret::inline("hunter2")), "[secret]");
    }
}
