//! Preparing a batch: its pushes read back from the journal, its sizes computed, once for all lanes.

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::error;

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
        let Ok(permit) = Arc::clone(&self.0.ahead).try_acquire_owned() else {
            return;
        };
        let (dispatcher, repository) = (self.clone(), repository.clone());
        self.0.parts.tasks.spawn("sizing", async move {
            tokio::select! {
                () = dispatcher.0.parts.tasks.soft().cancelled() => {}
                // A failure is told by whoever needs the contents; here nobody does yet.
                _ = dispatcher.contents(&repository, &batch) => {}
            }
            drop(permit);
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
    ) -> io::Result<&'a [Content]> {
        let contents = batch
            .contents
            .get_or_try_init(|| self.prepare(repository, batch))
            .await?;
        Ok(contents)
    }

    async fn prepare(&self, repository: &RepositoryName, batch: &Batch) -> io::Result<Vec<Content>> {
        let pushes = self.read(batch).await.inspect_err(|error| {
            error!(%error, %repository, "pushes can't be read back from the journal");
        })?;
        let limit = self.0.options.size_deadline;
        // A batch whose turn comes long after its sealing gets a deadline of its own.
        let deadline = match batch.sealed_at + limit {
            passed if passed <= Instant::now() => Instant::now() + limit,
            deadline => deadline,
        };
        let digests: Vec<_> = pushes.iter().map(|push| push.digest.clone()).collect();
        let images = pushes.into_iter().map(image_to_size).collect();
        let began = Instant::now();
        let sizes = self.0.parts.sizing.size(repository, images, deadline).await;
        self.count(&sizes, began.elapsed());
        Ok(digests
            .into_iter()
            .zip(sizes)
            .map(|(digest, sizes)| Content { digest, sizes })
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

    async fn read(&self, batch: &Batch) -> io::Result<Vec<Push>> {
        let journal = self.0.parts.journal.clone();
        let positions: Vec<_> = batch.members.iter().map(|member| member.position).collect();
        tokio::task::spawn_blocking(move || journal.read(&positions))
            .await
            .map_err(io::Error::other)?
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
