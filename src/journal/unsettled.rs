//! Which of the endpoints that owed a push still owe it.

/// So many pairs have their bits in the table.
pub(super) const BITS: u16 = 32;

/// Which of a push's pairs are unsettled: a bit for each endpoint that owed it, the first one lowest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Unsettled {
    /// At most 32 endpoints.
    Few(u32),
    /// More than that.
    Many(Vec<u64>),
}

impl Unsettled {
    /// All of `owed` pairs.
    pub(super) fn all(owed: u16) -> Self {
        if owed <= BITS {
            return Self::Few(u32::MAX.checked_shr(u32::from(BITS - owed)).unwrap_or(0));
        }
        let mut words = vec![u64::MAX; usize::from(owed / 64)];
        if !owed.is_multiple_of(64) {
            words.push(u64::MAX >> (64 - owed % 64));
        }
        Self::Many(words)
    }

    /// What [`Unsettled::to_bytes`] made for a push that `owed` endpoints owed; `None` if it is not that.
    pub(super) fn from_bytes(bytes: &[u8], owed: u16) -> Option<Self> {
        if bytes.len() != usize::from(owed.div_ceil(8)) {
            return None;
        }
        let all = Self::all(owed);
        let found = if owed <= BITS {
            let mut word = [0; 4];
            word.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Self::Few(u32::from_le_bytes(word))
        } else {
            let words = bytes.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                if let Some(place) = word.get_mut(..chunk.len()) {
                    place.copy_from_slice(chunk);
                }
                u64::from_le_bytes(word)
            });
            Self::Many(words.collect())
        };
        found.is_within(&all).then_some(found)
    }

    /// The bits as bytes, lowest first, as many as `owed` pairs take.
    pub(super) fn to_bytes(&self, owed: u16) -> Vec<u8> {
        let mut bytes: Vec<u8> = match self {
            Self::Few(word) => word.to_le_bytes().to_vec(),
            Self::Many(words) => words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        };
        bytes.resize(usize::from(owed.div_ceil(8)), 0);
        bytes
    }

    pub(super) fn contains(&self, place: u16) -> bool {
        match self {
            Self::Few(word) => place < BITS && word >> place & 1 == 1,
            Self::Many(words) => words
                .get(usize::from(place / 64))
                .is_some_and(|word| word >> (place % 64) & 1 == 1),
        }
    }

    pub(super) fn count(&self) -> u32 {
        match self {
            Self::Few(word) => word.count_ones(),
            Self::Many(words) => words.iter().map(|word| word.count_ones()).sum(),
        }
    }

    /// How much longer than a first record a copy is at most, bytes.
    pub(super) fn bytes_max(&self) -> usize {
        let bits = match self {
            Self::Few(_) => 4,
            Self::Many(words) => words.len() * 8,
        };
        bits + 10
    }

    fn is_within(&self, all: &Self) -> bool {
        match (self, all) {
            (Self::Few(word), Self::Few(all)) => word & !all == 0,
            (Self::Many(words), Self::Many(all)) => words.iter().zip(all).all(|(word, all)| word & !all == 0),
            _ => false,
        }
    }

    pub(super) fn settle(&mut self, place: u16) -> bool {
        let was_unsettled = self.contains(place);
        match self {
            Self::Few(word) if was_unsettled => *word &= !(1 << place),
            Self::Many(words) if was_unsettled => {
                if let Some(word) = words.get_mut(usize::from(place / 64)) {
                    *word &= !(1 << (place % 64));
                }
            }
            _ => {}
        }
        was_unsettled
    }
}
