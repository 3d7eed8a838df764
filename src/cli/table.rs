//! Columns of figures.

use std::fmt::Write;

/// Lines of cells, each column as wide as its widest cell, numbers to the right.
pub(super) fn table(lines: &[Vec<String>]) -> String {
    columns(lines, |cell, width| format!("{cell:>width$}"))
}

/// The same, all to the left.
pub(super) fn left(lines: &[Vec<String>]) -> String {
    columns(lines, |cell, width| format!("{cell:<width$}"))
}

fn columns(lines: &[Vec<String>], pad: impl Fn(&str, usize) -> String) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| pad(cell, *width))
            .collect();
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let lines = [["a", "bb"], ["123", "4"]].map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(table(&lines), "  a  bb\n123   4\n");
        assert_eq!(left(&lines), "a    bb\n123  4\n");
        assert_eq!(table(&[]), "");
    }
}
