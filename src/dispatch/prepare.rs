//! Preparing a batch: its pushes read back from the journal, its sizes computed, once for all lanes.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::OnceCell, time::Instant};
use tracing::warn;

use super::Dispatcher;
use crate::{
    image::RepositoryName,
    push::{Push, Sequence},
    queue::{Batch, Content, Lease},
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

    /// What is to be sent for a lease: computed with its batch by whoever asks first. A failed read is not
    /// remembered: the next one who asks reads again.
    ///
    /// # Errors
    /// The journal can't be read.
    pub(super) async fn content<'a>(
        &self,
        repository: &RepositoryName,
        lease: &'a Lease,
    ) -> io::Result<&'a Content> {
        let contents = self.contents(repository, &lease.batch).await?;
        let content = contents.get(lease.member).ok_or_else(unreadable)?;
        let again = || async {
            let sequence = [lease.sequence];
            let prepare = Box::pin(self.prepare(repository, &sequence, lease.batch.sealed_at));
            prepare.await?.pop().flatten().ok_or_else(unreadable)
        };
        content.get_or_try_init(again).await
    }

    async fn contents<'a>(
        &self,
        repository: &RepositoryName,
        batch: &'a Batch,
    ) -> io::Result<&'a [OnceCell<Content>]> {
        let prepare = || async {
            // In a place of its own: of a batch's lanes only one does it.
            let prepare = Box::pin(self.prepare(repository, &batch.members, batch.sealed_at));
            let contents = prepare.await?;
            Ok(contents.into_iter().map(OnceCell::new_with).collect())
        };
        let contents: io::Result<&Vec<_>> = batch.contents.get_or_try_init(prepare).await;
        contents.map(Vec::as_slice)
    }

    /// Reads pushes back and has them sized; `None` for one that can't be read.
    async fn prepare(
        &self,
        repository: &RepositoryName,
        sequences: &[Sequence],
        sealed_at: Instant,
    ) -> io::Result<Vec<Option<Content>>> {
        let pushes = self.read(repository, sequences).await?;
        let limit = self.0.options.size_deadline;
        // A batch whose turn comes long after its sealing gets a deadline of its own.
        let deadline = match sealed_at + limit {
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

    /// These pushes; one that can't be read holds back nobody but itself. One that was settled meanwhile may be
    /// gone from the disk, and is not missed.
    async fn read(
        &self,
        repository: &RepositoryName,
        sequences: &[Sequence],
    ) -> io::Result<Vec<Option<Push>>> {
        let journal = self.0.parts.journal.clone();
        let to_read = sequences.to_vec();
        let read = move || journal.read(&to_read);
        let permit = self.0.reads.acquire().await.map_err(io::Error::other)?;
        let read = tokio::task::spawn_blocking(read)
            .await
            .map_err(io::Error::other)?;
        drop(permit);
        let (mut pushes, mut failure) = (Vec::with_capacity(read.len()), None);
        for (sequence, push) in sequences.iter().zip(read) {
            match push {
                Ok(push) => pushes.push(Some(push)),
                Err(error) => {
                    if error.kind() != io::ErrorKind::NotFound {
                        warn!(%error, %repository, %sequence, "a push can't be read back now");
                    }
                    failure = Some(error);
                    pushes.push(None);
                }
            }
        }
        match failure {
            Some(error) if pushes.iter().all(Option::is_none) => Err(error),
            _ => Ok(pushes),
        }
    }
}

fn unreadable() -> io::Error {
    io::Error::other("the push could not be read back")
}

fn image_to_size(push: Push) -> ImageToSize {
    ImageToSize {
        digest: push.digest,
        media_type: push.media_type,
        manifest_size: push.manifest_size,
        references: push.references,
    }
}
