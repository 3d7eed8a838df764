//! What a stream waits for.

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{HEARTBEAT, PAUSE};

/// Why a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Something is another way: the part is looked at.
    Change,
    /// Nothing was sent for so long: the part is looked at, and something is sent.
    Heartbeat,
    /// Somebody left: whether it is who looks on.
    Departure,
    /// The process drains.
    Stop,
}

/// Where it is told.
pub(super) struct News {
    /// Something was written down, if anything is.
    pub(super) written: Option<watch::Receiver<()>>,
    /// An endpoint's state changed.
    pub(super) states: watch::Receiver<()>,
    /// Somebody left.
    pub(super) departures: watch::Receiver<()>,
    /// Cancelled when the process drains.
    pub(super) stop: CancellationToken,
}

impl News {
    /// Waits until there is something to look at, which is not before [`PAUSE`] is over since that was done last.
    pub(super) async fn wait(&mut self, looked_at: Instant, sent_at: Instant) -> Cause {
        let (states, departures) = (&mut self.states, &mut self.departures);
        let mut written = self.written.as_mut();
        let change = async {
            let written = async {
                let is_written = match written.as_mut() {
                    Some(written) => written.changed().await.is_ok(),
                    None => false,
                };
                if !is_written {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = written => {}
                _ = states.changed() => {}
                _ = departures.changed() => return Cause::Departure,
            }
            sleep_until(looked_at + PAUSE).await;
            Cause::Change
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Cause::Stop,
            cause = change => cause,
            () = sleep_until(sent_at + HEARTBEAT) => Cause::Heartbeat,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_has_nothing_looked_at_but_whether_it_is_them() {
        let [written, states, departures] = [(); 3].map(|()| watch::Sender::new(()));
        let mut news = News {
            written: Some(written.subscribe()),
            states: states.subscribe(),
            departures: departures.subscribe(),
            stop: CancellationToken::new(),
        };
        let begin = Instant::now();
        for _ in 0..100 {
            departures.send_replace(());
            assert_eq!(news.wait(begin, begin).await, Cause::Departure);
        }
        assert_eq!(Instant::now(), begin);
        for changed in [&written, &states] {
            let looked_at = Instant::now();
            changed.send_replace(());
            assert_eq!(news.wait(looked_at, looked_at).await, Cause::Change);
            assert_eq!(Instant::now(), looked_at + PAUSE);
        }
        let sent_at = Instant::now();
        assert_eq!(news.wait(sent_at, sent_at).await, Cause::Heartbeat);
        assert_eq!(Instant::now(), sent_at + HEARTBEAT);
        news.stop.cancel();
        departures.send_replace(());
        assert_eq!(news.wait(begin, sent_at).await, Cause::Stop);
    }
}
