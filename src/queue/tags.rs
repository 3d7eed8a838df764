//! The tags of one repository's pushes, end to end in one text: a push has only its tag's place in it.

/// The smallest step in which the text grows, bytes.
const GROWTH_BYTES_MIN: usize = 32;

/// So many bytes of tags that nobody needs are let be.
const DEAD_BYTES_MIN: usize = 256;

/// Where a tag stands. The default is that of a push without a tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TagAt {
    /// Byte offset in the text.
    pub(super) at: u32,
    /// Its length in bytes; 0 when there is none.
    pub(super) bytes: u8,
}

/// The tags of one repository's pushes.
#[derive(Debug, Default)]
pub(super) struct Tags {
    text: String,
    /// Bytes in it that no push refers to any more.
    dead: u32,
}

impl Tags {
    /// Adds a tag, which has at most 128 bytes. Nothing is kept of one that has no room: that would take a
    /// single repository with more than 30 million pushes.
    pub(super) fn add(&mut self, tag: &str) -> TagAt {
        let (Ok(at), Ok(bytes)) = (u32::try_from(self.text.len()), u8::try_from(tag.len())) else {
            return TagAt::default();
        };
        if self.text.capacity() - self.text.len() < tag.len() {
            let growth = (self.text.len() / 4).max(GROWTH_BYTES_MIN);
            self.text.reserve_exact(growth.max(tag.len()));
        }
        self.text.push_str(tag);
        TagAt { at, bytes }
    }

    /// The tag there; `None` when there is none.
    pub(super) fn get(&self, tag: TagAt) -> Option<&str> {
        let at = usize::try_from(tag.at).ok()?;
        let text = self.text.get(at..at + usize::from(tag.bytes))?;
        (!text.is_empty()).then_some(text)
    }

    /// Takes note that the last push of a tag has ended.
    pub(super) fn end(&mut self, tag: TagAt) {
        self.dead = self.dead.saturating_add(u32::from(tag.bytes));
    }

    /// Whether most of the text is of no use, and enough of it to be worth moving the rest.
    pub(super) fn is_worn(&self) -> bool {
        let dead = usize::try_from(self.dead).unwrap_or(usize::MAX);
        dead >= DEAD_BYTES_MIN && dead > self.text.len() / 2
    }

    /// A text with room for what is not dead, to move that into.
    pub(super) fn successor(&self) -> Self {
        let dead = usize::try_from(self.dead).unwrap_or(usize::MAX);
        Self {
            text: String::with_capacity(self.text.len().saturating_sub(dead)),
            dead: 0,
        }
    }
}
