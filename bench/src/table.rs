//! Tables for a terminal.

use std::fmt::Write as _;

/// Sets rows in columns; the first row is the heading.
pub(crate) fn set(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut table = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Words to the left, numbers to the right.
            let _ =
                if column == 0 { write!(table, "{cell:<width$}") } else { write!(table, "  {cell:>width$}") };
        }
        table.truncate(table.trim_end().len());
        table.push('\n');
    }
    table
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    values.get(middle).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "rows/s".into()], vec!["path".into(), "1".into()]];
        assert_eq!(set(&rows), "a     rows/s\npath       1\n");
    }

    #[test]
    fn the_median_does_not_care_for_order() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}
