//! Preparing a batch: its pushes read back from the journal, its sizes computed, once for all lanes.

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::warn;

use super::Dispatcher;
use crate::{
    image::RepositoryName,
    push::Push,
    queue::{Batch, Content},
    sizing::ImageToSize,
    telemetry::labels::SizeNumber,
    webhook::Sizes,
};

impl Dispatcher {
    /// Begins to size a batch that was just sealed, whether or not its turn has come: its sizes are
    /// those of the moment of its sealing.
    pub(super) fn prepare_ahead(&self, repository: &RepositoryName, batch: Arc<Batch>) {
        let (dispatcher, repository) = (self.clone(), repository.clone());
        self.0.parts.tasks.spawn("sizing", async move {
            tokio::select! {
                () = dispatcher.0.parts.tasks.soft().cancelled() => {}
                // A failure is told by whoever needs the contents; here nobody does yet.
                _ = dispatcher.contents(&repository, &batch) => {}
            }
        });
    }

    /// What is to be sent of each member of the batch; computed by whoever asks first.
    ///
    /// # Errors
    /// The journal can't be read.
    pub(super) async fn contents<'a>(
        &self,
        repository: &RepositoryName,
        batch: &'a Batch,
    ) -> io::Result<&'a [Option<Content>]> {
        let contents = batch
            .contents
            .get_or_try_init(|| self.prepare(repository, batch))
            .await?;
        Ok(contents)
    }

    async fn prepare(&self, repository: &RepositoryName, batch: &Batch) -> io::Result<Vec<Option<Content>>> {
        let pushes = self.read(repository, batch).await?;
        let limit = self.0.options.size_deadline;
        // A batch whose turn comes long after its sealing gets a deadline of its own.
        let deadline = match batch.sealed_at + limit {
            passed if passed <= Instant::now() => Instant::now() + limit,
            deadline => deadline,
        };
        let digests: Vec<_> = pushes
            .iter()
            .map(|push| push.as_ref().map(|push| push.digest.clone()))
            .collect();
        let images = pushes.into_iter().flatten().map(image_to_size).collect();
        let began = Instant::now();
        let sizes = self.0.parts.sizing.size(repository, images, deadline).await;
        self.count(&sizes, began.elapsed());
        let mut sizes = sizes.into_iter();
        Ok(digests
            .into_iter()
            .map(|digest| {
                Some(Content {
                    digest: digest?,
                    sizes: sizes.next()?,
                })
            })
            .collect())
    }

    fn count(&self, sizes: &[Sizes], elapsed: Duration) {
        let metrics = &self.0.parts.metrics;
        metrics.sized(elapsed);
        for sizes in sizes {
            if sizes.image_size.is_none() {
                metrics.size_unknown(SizeNumber::Image);
                metrics.size_unknown(SizeNumber::Layers);
            }
            if sizes.repository_size.is_none() {
                metrics.size_unknown(SizeNumber::Repository);
            }
        }
    }

    /// The batch's pushes; one that can't be read holds back nobody but itself. A member that was settled
    /// meanwhile may be gone from the disk, and is not missed.
    async fn read(&self, repository: &RepositoryName, batch: &Batch) -> io::Result<Vec<Option<Push>>> {
        let journal = self.0.parts.journal.clone();
        let sequences: Vec<_> = batch.members.to_vec();
        let read = move || {
            sequences
                .iter()
                .map(|sequence| journal.read(&[*sequence]))
                .collect::<Vec<_>>()
        };
        let pushes = tokio::task::spawn_blocking(read)
            .await
            .map_err(io::Error::other)?;
        let mut failure = None;
        let pushes: Vec<Option<Push>> = (pushes.into_iter())
            .map(|push| push.inspect_err(|error| warn!(%error, %repository, "a push can't be read back")))
            .map(|push| push.map_err(|error| failure = Some(error)).ok()?.pop())
            .collect();
        match failure {
            Some(error) if pushes.iter().all(Option::is_none) => Err(error),
            _ => Ok(pushes),
        }
    }
}

fn image_to_size(push: Push) -> ImageToSize {
    ImageToSize {
        digest: push.digest,
        media_type: push.media_type,
        manifest_size: push.manifest_size,
        references: push.references,
    }
}
