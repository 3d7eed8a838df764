//! The fuzzer's bytes, read as numbers and choices. Where they end, everything is 0.

/// Numbers at which counting goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    127,
    128,
    u16::MAX as u64,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX - 2,
    u64::MAX - 1,
    u64::MAX,
];

#[derive(Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// At most `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// A number below `count`, or 0.
    pub(super) fn below(&mut self, count: usize) -> usize {
        let wide = u16::from_le_bytes([self.byte(), if count > 256 { self.byte() } else { 0 }]);
        usize::from(wide).checked_rem(count).unwrap_or(0)
    }

    /// A number that is near another one, at an edge, or any.
    pub(super) fn number(&mut self, near: u64) -> u64 {
        let how = self.byte();
        match how % 3 {
            0 => near.wrapping_add_signed(i64::from(how / 3) - 40),
            1 => EDGES
                .get(usize::from(how / 3) % EDGES.len())
                .copied()
                .unwrap_or(0),
            _ => self
                .bytes(8)
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        }
    }
}
