//! `shipbell why …`: what became of a push.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use anyhow::anyhow;
use clap::Args;

use super::{Exit, Failure, Output, colour::Colour, print};
use crate::{
    catalog::{self, EndpointHealth, ReadError, Reader, Sought, Stories},
    clock::Clock,
    config::{Config, Problems},
    journal::{self, Holder},
    settings::{self, SavedState, Settings},
};

mod text;

/// Arguments of `shipbell why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// An image (`acme/app:1.4`, `acme/app@sha256:…`), a repository, an event id or a webhook-id
    #[arg(value_name = "IMAGE|ID", value_parser = parse)]
    sought: Asked,
    /// The data directory, in which `catalog.db` is; no configuration is read then
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
    /// At most so many pushes, the newest
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    text: String,
    /// What it can mean, likeliest first. The first that something is known of counts.
    readings: Vec<Sought>,
}

impl Asked {
    /// The same without a registry's host in front.
    fn without_host(&self, host: &str) -> Option<Self> {
        parse(Sought::without_host(&self.text, host)?).ok()
    }
}

fn parse(text: &str) -> Result<Asked, String> {
    let text = text.trim();
    Ok(Asked {
        text: text.to_owned(),
        readings: Sought::readings(text)?,
    })
}

/// Where the history is, and who writes it; and how the endpoints are.
struct Place {
    file: PathBuf,
    holder: Holder,
    /// Those that are not healthy; or why that can't be read.
    health: Result<HashMap<String, EndpointHealth>, settings::OpenError>,
}

impl Place {
    fn of(data_dir: &Path) -> Self {
        Self {
            file: data_dir.join(catalog::FILE),
            holder: journal::holder(&data_dir.join(journal::DIRECTORY)),
            health: Settings::states_in(&data_dir.join(settings::FILE)).map(by_endpoint),
        }
    }

    /// Tells of each pending delivery how its endpoint is.
    fn complete(&self, found: &mut Stories) {
        let Ok(health) = &self.health else { return };
        let deliveries = found.pushes.iter_mut().flat_map(|push| &mut push.deliveries);
        for delivery in deliveries.filter(|delivery| delivery.state == "pending") {
            delivery.endpoint_health = health.get(&delivery.endpoint).cloned();
        }
    }

    /// What may not have been written down yet, and what else a reader can't see in what was found.
    fn note(&self, found: &Stories) -> Option<String> {
        let mut deliveries = found.pushes.iter().flat_map(|push| &push.deliveries);
        let is_pending = deliveries.any(|delivery| delivery.state == "pending");
        let missing = match self.holder {
            Holder::Process(_) => Some(
                "a server is running, and writes what happens within a second: the newest may be missing",
            ),
            Holder::Nobody if is_pending => Some("no server is running: nothing is sent until one does"),
            Holder::Nobody => None,
            Holder::Unknown => Some(
                "it is not known whether a server is running: what happened in the last second may be missing",
            ),
        };
        let unread = self.health.as_ref().err().filter(|_| is_pending);
        let unread = unread.map(|error| format!("how endpoints are is not known: {error}"));
        let notes: Vec<String> = missing.map(ToOwned::to_owned).into_iter().chain(unread).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

fn by_endpoint(saved: Vec<SavedState>) -> HashMap<String, EndpointHealth> {
    let health = |saved: SavedState| {
        let health = EndpointHealth {
            since: Some(saved.since),
            next_attempt: saved.next_attempt(),
            state: saved.state,
        };
        (saved.endpoint.to_string(), health)
    };
    saved.into_iter().map(health).collect()
}

/// Runs the command.
///
/// # Errors
/// Nothing is known of what was asked for, the history can't be read, or the configuration has problems.
pub fn run(arguments: &WhyArgs, load: impl FnOnce() -> Result<Config, Problems>) -> Result<(), Failure> {
    let mut asked = vec![arguments.sought.clone()];
    let place = if let Some(data_dir) = &arguments.data_dir {
        Place::of(data_dir)
    } else {
        let config = load()?;
        let public = config.registry.public_host.as_deref();
        asked.extend(public.and_then(|host| arguments.sought.without_host(host)));
        Place::of(&config.data_dir)
    };
    let mut reader = Reader::open(&place.file)?;
    let mut found = find(&mut reader, &asked, arguments.limit)?;
    place.complete(&mut found);
    let note = place.note(&found);
    match arguments.output {
        Output::Json => {
            let document = catalog::json::StoriesDocument::from(&found);
            let mut value = serde_json::to_value(document).map_err(io::Error::from)?;
            if let Some(told) = value.as_object_mut() {
                told.insert("asked".to_owned(), arguments.sought.text.clone().into());
                told.insert("file".to_owned(), place.file.display().to_string().into());
                told.insert("note".to_owned(), note.into());
            }
            print(&format!("{value:#}\n"))?;
        }
        Output::Text => {
            let colour = Colour::of(&io::stdout());
            print(&text::all(&found, note.as_deref(), colour, Clock::system().now()))?;
        }
    }
    if found.pushes.is_empty() && found.dropped.is_empty() {
        return Err(unknown(&arguments.sought, &place, &reader)?);
    }
    Ok(())
}

/// The first reading of which something is known.
fn find(reader: &mut Reader, asked: &[Asked], limit: u32) -> Result<Stories, ReadError> {
    for sought in asked.iter().flat_map(|asked| &asked.readings) {
        let stories = reader.stories(sought, None, limit)?;
        if !stories.pushes.is_empty() || !stories.dropped.is_empty() {
            return Ok(stories);
        }
    }
    Ok(Stories::default())
}

fn unknown(asked: &Asked, place: &Place, reader: &Reader) -> Result<Failure, ReadError> {
    let words: Vec<String> = asked.readings.iter().map(words).collect();
    let since = reader.oldest()?.map_or("which is empty".to_owned(), |oldest| {
        format!("which begins at {oldest}")
    });
    let mut message = format!(
        "nothing is known of {}: looked for {} in {}, {since}",
        asked.text,
        words.join(", then for "),
        place.file.display()
    );
    if let Some(note) = place.note(&Stories::default()) {
        message.push_str("; ");
        message.push_str(&note);
    }
    Ok(Failure::new(Exit::Failure, anyhow!(message)))
}

fn words(sought: &Sought) -> String {
    match sought {
        Sought::Repository(name) => format!("pushes to the repository {name}"),
        Sought::Tag(name, tag) => format!("pushes of the tag {tag} in {name}"),
        Sought::Digest(name, digest) => format!("pushes of {digest} in {name}"),
        Sought::Event(id) => format!("a push with the event id {id}"),
        Sought::Webhook(id) => format!("a delivery with the webhook-id {id}"),
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let exit = match &error {
            ReadError::Absent { .. } => Exit::Failure,
            ReadError::Newer { .. } | ReadError::Damaged { .. } => Exit::Damaged,
            ReadError::Io { error, .. } => match error.kind() {
                io::ErrorKind::PermissionDenied => Exit::Permission,
                io::ErrorKind::ResourceBusy => Exit::TryAgain,
                _ => Exit::Io,
            },
        };
        Self::new(exit, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn readings(text: &str) -> Vec<Sought> {
        parse(text).unwrap().readings
    }

    #[test]
    fn images_ids_and_repositories_are_told_apart() {
        let digest = Digest::sha256(b"x").to_string();
        let own = |text: &str| text.to_owned();
        assert_eq!(
            readings("acme/app:1.4"),
            [Sought::Tag(own("acme/app"), own("1.4"))]
        );
        for text in [format!("acme/app@{digest}"), format!("acme/app:1.4@{digest}")] {
            assert_eq!(readings(&text), [Sought::Digest(own("acme/app"), digest.clone())]);
        }
        assert_eq!(readings("acme/app"), [Sought::Repository(own("acme/app"))]);
        let id = "6f1e0a9c-0000-4000-8000-000000000001";
        assert_eq!(readings(id)[0], Sought::Event(own(id)));
        assert_eq!(readings("msg_0011")[0], Sought::Webhook(own("msg_0011")));
        assert_eq!(
            parse("registry.example.com:5000/acme/app:1")
                .unwrap()
                .without_host("registry.example.com:5000"),
            parse("acme/app:1").ok()
        );
        for host in ["Registry.Example.com:5000", "registry.example.com:5000"] {
            let found = parse("registry.EXAMPLE.com:5000/acme/app:1")
                .unwrap()
                .without_host(host);
            assert_eq!(found, parse("acme/app:1").ok(), "{host}");
        }
        for text in ["", "acme/app@sha256:12", "Acme/App", "@"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
