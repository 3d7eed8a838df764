//! Byte strings that grow at their ends, very many at once, in few pieces of memory: what is held is what is in them,
//! and all of it is given back when they go.

/// Bytes of a block: a processor's cache has lines of so many.
const BLOCK_BYTES: usize = 64;

/// Of those, what says which block comes next: a number, little-endian; 0 for none.
const NEXT_BYTES: usize = 4;

/// Bytes of a string in one block.
const CONTENT_BYTES: usize = BLOCK_BYTES - NEXT_BYTES;

/// Blocks that are set aside at once: 256 KiB, which the system gives and takes back as they are.
const PIECE_BLOCKS: usize = 4096;

type Block = [u8; BLOCK_BYTES];

/// The blocks of many strings.
#[derive(Debug, Default)]
pub(super) struct Strands {
    pieces: Vec<Vec<Block>>,
    /// How many blocks are in use; they are numbered from 1.
    blocks: u32,
}

/// One string, to be asked for where it was made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Strand {
    /// Its first block and its last; 0 while it is empty.
    first: u32,
    last: u32,
    /// Bytes of it in the last one.
    used: u8,
}

impl Strands {
    /// Adds to a string.
    pub(super) fn extend(&mut self, strand: &mut Strand, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if strand.last == 0 || usize::from(strand.used) == CONTENT_BYTES {
                self.extend_by_block(strand);
            }
            let used = usize::from(strand.used);
            let (now, later) = bytes.split_at(bytes.len().min(CONTENT_BYTES - used));
            let room = self
                .block_mut(strand.last)
                .and_then(|block| block.get_mut(NEXT_BYTES + used..)?.get_mut(..now.len()));
            if let Some(room) = room {
                room.copy_from_slice(now);
            }
            strand.used += u8::try_from(now.len()).unwrap_or_default();
            bytes = later;
        }
    }

    fn extend_by_block(&mut self, strand: &mut Strand) {
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE_BLOCKS) {
            self.pieces.push(Vec::with_capacity(PIECE_BLOCKS));
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.push([0; BLOCK_BYTES]);
        }
        self.blocks += 1;
        let number = self.blocks;
        let before = self
            .block_mut(strand.last)
            .and_then(|block| block.first_chunk_mut::<NEXT_BYTES>());
        match before {
            Some(next) => *next = number.to_le_bytes(),
            None => strand.first = number,
        }
        (strand.last, strand.used) = (number, 0);
    }

    /// Puts a string into `out`, in place of what is there.
    pub(super) fn copy(&self, strand: &Strand, out: &mut Vec<u8>) {
        out.clear();
        let mut number = strand.first;
        while let Some((next, content)) = self.block(number) {
            let used = if number == strand.last {
                usize::from(strand.used)
            } else {
                CONTENT_BYTES
            };
            out.extend_from_slice(content.get(..used).unwrap_or_default());
            number = next;
        }
    }

    /// The number of the block that comes next, and what is in this one.
    fn block(&self, number: u32) -> Option<(u32, &[u8])> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        let block = self.pieces.get(index / PIECE_BLOCKS)?.get(index % PIECE_BLOCKS)?;
        let (next, content) = block.split_first_chunk::<NEXT_BYTES>()?;
        Some((u32::from_le_bytes(*next), content))
    }

    fn block_mut(&mut self, number: u32) -> Option<&mut Block> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.pieces
            .get_mut(index / PIECE_BLOCKS)?
            .get_mut(index % PIECE_BLOCKS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn strings_are_what_was_added_to_them(added in vec((0..5_usize, vec(any::<u8>(), 0..200)), 0..200)) {
            let (mut strands, mut ours) = (Strands::default(), [Strand::default(); 5]);
            let mut wanted = vec![Vec::new(); 5];
            for (number, bytes) in added {
                strands.extend(&mut ours[number], &bytes);
                wanted[number].extend(bytes);
            }
            let mut found = b"what was there before".to_vec();
            for (strand, wanted) in ours.iter().zip(&wanted) {
                strands.copy(strand, &mut found);
                prop_assert_eq!(&found, wanted);
            }
        }
    }

    #[test]
    fn a_string_may_be_longer_than_a_piece() {
        let (mut strands, mut strand, mut other) = (Strands::default(), Strand::default(), Strand::default());
        let bytes: Vec<u8> = (0..=250).cycle().take(PIECE_BLOCKS * BLOCK_BYTES * 3).collect();
        for bytes in bytes.chunks(CONTENT_BYTES) {
            strands.extend(&mut strand, bytes);
            strands.extend(&mut other, b"one more");
        }
        let mut found = Vec::new();
        strands.copy(&strand, &mut found);
        assert!(found == bytes);
        assert!(strands.pieces.len() >= 3);
    }
}
