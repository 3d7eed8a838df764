//! From measurements to the table.

use std::fmt;

/// What is wanted of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Nothing: it is there to compare with.
    Nothing,
}

impl Wanted {
    fn verdict(self, value: f64) -> &'static str {
        let is_met = match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Nothing => return "",
        };
        if is_met { "ok" } else { "short" }
    }
}

/// How a figure is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    /// So many a second, with what it is that is counted.
    PerSecond(&'static str),
    /// Given in seconds.
    Seconds,
    /// Given in microseconds.
    Micros,
    /// Given in bytes.
    Mebibytes,
    /// Given in bytes, and written so.
    Bytes,
    /// A number without unit.
    Times,
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::PerSecond(what) if value >= 1_000_000.0 => format!("{:.2} M {what}/s", value / 1_000_000.0),
            Self::PerSecond(what) => format!("{value:.0} {what}/s"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Micros if value >= 10_000.0 => format!("{:.1} ms", value / 1_000.0),
            Self::Micros if value >= 100.0 => format!("{value:.0} µs"),
            Self::Micros => format!("{value:.1} µs"),
            Self::Mebibytes => format!("{:.1} MiB", value / 1_048_576.0),
            Self::Bytes => format!("{value:.0} B"),
            Self::Times => format!("{value:.2}"),
        }
    }
}

/// A row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    work: String,
    who: String,
    figure: String,
    floor: String,
    judged: String,
    spread: String,
    wanted: String,
    verdict: &'static str,
}

impl Row {
    /// A row of ratios, one a round: each of `figures` to the one of `floors` of the same round.
    pub(crate) fn of_ratios(
        work: impl Into<String>,
        who: &str,
        unit: Unit,
        figures: &[f64],
        floors: &[f64],
        wanted: Wanted,
    ) -> Self {
        let ratios: Vec<f64> = figures
            .iter()
            .zip(floors)
            .map(|(figure, floor)| figure / floor)
            .collect();
        Self {
            floor: unit.write(median(floors)),
            figure: unit.write(median(figures)),
            ..Self::of_values(work, who, Unit::Times, &ratios, wanted)
        }
    }

    /// A row of values that are judged by themselves.
    pub(crate) fn of_values(
        work: impl Into<String>,
        who: &str,
        unit: Unit,
        values: &[f64],
        wanted: Wanted,
    ) -> Self {
        let value = median(values);
        let (least, most) = values
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
                (least.min(*value), most.max(*value))
            });
        let spread = match unit {
            Unit::Times => format!("{least:.2}..{most:.2}"),
            _ => format!("{} .. {}", unit.write(least), unit.write(most)),
        };
        Self {
            work: work.into(),
            who: who.to_owned(),
            figure: unit.write(value),
            floor: String::new(),
            judged: unit.write(value),
            spread,
            wanted: match wanted {
                Wanted::AtLeast(bound) => format!(">= {}", unit.write(bound)),
                Wanted::AtMost(bound) => format!("<= {}", unit.write(bound)),
                Wanted::Nothing => String::new(),
            },
            verdict: wanted.verdict(value),
        }
    }

    /// The table of these rows, in Markdown.
    pub(crate) fn table(rows: &[Self]) -> String {
        let head = [
            "work",
            "who",
            "figure",
            "floor",
            "ratio or value",
            "min..max",
            "wanted",
            "",
        ];
        let mut lines = vec![head.map(str::to_owned)];
        lines.push(["---", "---", "---:", "---:", "---:", "---", "---", "---"].map(str::to_owned));
        lines.extend(rows.iter().map(Self::cells));
        let lines: Vec<String> = lines
            .iter()
            .map(|cells| format!("| {} |", cells.join(" | ")))
            .collect();
        lines.join("\n")
    }

    fn cells(&self) -> [String; 8] {
        let Self {
            work,
            who,
            figure,
            floor,
            judged,
            spread,
            wanted,
            verdict,
        } = self.clone();
        [
            work,
            who,
            figure,
            floor,
            judged,
            spread,
            wanted,
            verdict.to_owned(),
        ]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}", self.work, self.who, self.figure)?;
        if !self.floor.is_empty() {
            write!(f, ", floor {}, ratio {}", self.floor, self.judged)?;
        }
        write!(f, " ({})", self.spread)?;
        if !self.wanted.is_empty() {
            write!(f, ", wanted {}: {}", self.wanted, self.verdict)?;
        }
        Ok(())
    }
}

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
