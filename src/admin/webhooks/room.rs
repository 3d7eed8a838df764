//! How many webhooks of their own repositories may have, and how large these may be together.

use super::ChangeError;
use crate::settings::{SavedWebhook, WebhookStats};

/// How many webhooks there may be, and how much they may take. Whoever may edit some repositories may save one for each
/// name that they think of.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Webhooks.
    pub webhooks_max: u64,
    /// Bytes of all that is saved of them.
    pub bytes_max: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            webhooks_max: 200_000,
            bytes_max: 256 * 1024 * 1024,
        }
    }
}

impl Room {
    /// Whether there is room for a webhook in the place of the one that is `there`. What takes no more than before always
    /// has.
    pub(super) fn check(
        &self,
        used: WebhookStats,
        there: Option<&SavedWebhook>,
        after: &SavedWebhook,
    ) -> Result<(), ChangeError> {
        if there.is_none() && used.webhooks >= self.webhooks_max {
            return Err(ChangeError::Full(format!(
                "{} repositories have a webhook of their own, and no more may: remove one that is not needed",
                used.webhooks
            )));
        }
        let more = after.bytes().saturating_sub(there.map_or(0, SavedWebhook::bytes));
        if more > 0 && used.bytes + more > self.bytes_max {
            return Err(ChangeError::Full(format!(
                "the repositories' webhooks take {} bytes, and may take {} at most: leave out headers, or remove webhooks \
                 that are not needed",
                used.bytes, self.bytes_max
            )));
        }
        Ok(())
    }
}
