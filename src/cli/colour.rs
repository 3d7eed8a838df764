//! Colours, for those who read on a terminal.

use std::{fmt, io::IsTerminal};

use crate::config::no_color;

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// No.
    Plain,
    /// Yes, as terminals understand it.
    Ansi,
}

/// What a colour says.
#[derive(Clone, Copy)]
pub(super) enum Tone {
    Loud,
    Quiet,
    Good,
    Bad,
}

impl Colour {
    /// For what is written to `stream`: yes on a terminal, unless the user wants none.
    pub(super) fn of(stream: &impl IsTerminal) -> Self {
        if stream.is_terminal() && !no_color() {
            Self::Ansi
        } else {
            Self::Plain
        }
    }

    pub(super) fn paint(self, tone: Tone, text: impl fmt::Display) -> String {
        let code = match tone {
            Tone::Loud => "1",
            Tone::Quiet => "2",
            Tone::Good => "32",
            Tone::Bad => "31",
        };
        match self {
            Self::Plain => text.to_string(),
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}
