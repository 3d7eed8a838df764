//! What a commit is made of: which appends go into a group, what their pushes are called, and what is taken back.

use super::{
    super::{
        AppendError, Applied, Health,
        flight::Meanwhile,
        group::Waiter,
        inbox::{Admits, Append, WAITING_APPENDS_MAX},
        segments::{Purpose, RoomError},
    },
    SETTLEMENT_BYTES_MAX, Writer,
};
use crate::push::Sequence;

impl Writer {
    /// Puts appends from the line into the group, as many as it takes. What nothing is in flight for takes one at
    /// least: then room can be made for it.
    pub(in crate::journal) fn stage_line(&mut self, meanwhile: Meanwhile) {
        while let Some(append) = self.line.pop_front() {
            let may_be_first = meanwhile == Meanwhile::Wait && self.group.is_empty();
            if !may_be_first && !self.group_takes(append.record_bytes()) {
                self.line.push_front(append);
                return;
            }
            self.stage(append);
        }
    }

    /// Whether records of that length still go into the group.
    fn group_takes(&self, bytes: usize) -> bool {
        // By what its appends came with: one that holds nothing but repeats costs memory too.
        let is_small = self.group.is_empty()
            || self.group.appends() < WAITING_APPENDS_MAX
                && self.group.offered + bytes <= self.pace.commit_bytes_max;
        let staged = self.group.record_bytes();
        is_small && (bytes == 0 || staged + bytes <= self.segments.room_for(Purpose::Pushes))
    }

    /// Sees to it that the segment has room for the group.
    pub(super) fn make_room_for_group(&mut self) -> Result<(), AppendError> {
        let bytes = self.group.record_bytes();
        if let Some(error) = self.fatal.as_ref().filter(|_| bytes > 0) {
            return Err(AppendError::Io(error.clone()));
        }
        if bytes <= self.segments.room_for(Purpose::Pushes) {
            return Ok(());
        }
        self.make_room(bytes, Purpose::Pushes).map_err(|error| {
            let is_full = matches!(error, RoomError::Full { .. });
            self.refused = self.refused.max(is_full.then_some(bytes));
            match self.carrying.hindrance(is_full).filter(|_| is_full) {
                Some(Health::Damaged(damage)) => AppendError::Damaged(damage),
                Some(Health::NoSpace { error }) => AppendError::Io(error),
                _ => error.to_append_error(self.segments.options()),
            }
        })
    }

    /// The sequence number of the first push that is not on its way yet.
    pub(super) fn first_unwritten(&self) -> Sequence {
        if self.group.is_empty() {
            self.next_sequence
        } else {
            self.group.sequence_from
        }
    }

    /// Puts an append into the group: gives its pushes their places, and leaves out those taken before.
    fn stage(&mut self, append: Append) {
        let Append {
            mut applied,
            frame,
            keys,
            admits,
            reply,
            ticket,
        } = append;
        // Also for what is to come: what is looked up now is quick to find below.
        let known = self.recent.count(keys.iter().flatten().copied());
        if admits == Admits::Repeats && known < keys.len() {
            // Nobody may wait for it any more.
            let _ = reply.send(AppendError::New.into());
            return;
        }
        if self.group.is_empty() {
            self.group.begin(self.recent.end(), self.next_sequence);
        }
        self.group.take_in(frame);
        let (mut keys, mut depends) = (keys.into_iter(), false);
        applied.retain_mut(|applied| {
            let Applied::Push(durable) = applied else {
                return true;
            };
            let key = keys.next().flatten();
            if let Some(place) = key.and_then(|key| self.recent.push(key, durable.push.taken_at)) {
                self.group.leave_out(durable.bytes);
                depends |= place >= self.ids_durable;
                self.stats.duplicates += 1;
                return false;
            }
            durable.sequence = self.next_sequence;
            self.next_sequence = self.next_sequence.next();
            self.group.keep_push(durable, self.segments.seed());
            depends = true;
            true
        });
        let waiter = Waiter {
            reply,
            ticket,
            depends,
            applied,
        };
        self.group.end_append(waiter, self.recent.end());
    }

    /// Settlements and what is to be carried forward ride with a group only as far as there is room. When they wait too
    /// long nothing is staged for once, and they get a commit of their own.
    pub(super) fn meanwhile(&self) -> Meanwhile {
        if self.carrying.is_kept_waiting || self.shared.settling.is_behind(SETTLEMENT_BYTES_MAX) {
            Meanwhile::Wait
        } else {
            Meanwhile::Stage
        }
    }

    /// Takes back the numbers and ids of the group that failed, and of all that was staged behind it.
    pub(super) fn take_back(&mut self) {
        self.recent.take_back(self.flown.ids.start);
        self.next_sequence = self.flown.sequence_from;
    }
}
