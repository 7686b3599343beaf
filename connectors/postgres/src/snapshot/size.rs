//! How many rows a chunk has: so many that reading it takes a quarter of a second, as far as those before tell.

use std::time::Duration;

use super::rows::Rows;

/// A chunk is to take about so long, and no more bytes than this: longer ones hold more back in memory, and in the
/// server its vacuum.
const CHUNK_TIME: Duration = Duration::from_millis(250);
const CHUNK_BYTES: usize = 8 << 20;

/// Rows of the first chunk, and of the largest.
pub(super) const FIRST_ROWS: u32 = 2_000;
const MAX_ROWS: u32 = 200_000;

/// A chunk has at most so many times the rows of the one before: the first ones tell little of those behind them.
const GROWTH: f64 = 8.0;

/// And at least this part.
const SHRINKING: f64 = 0.5;

/// How many rows the next chunk is to have, when one of `rows` gave these and took so long. `looked_at`: where a condition
/// leaves rows out, all that it was tried on.
pub(super) fn adapted(rows: u32, (read, looked_at): (&Rows, Option<usize>), took: Duration) -> u32 {
    let wanted = CHUNK_TIME.as_secs_f64() / took.as_secs_f64().max(0.001);
    let by_time = f64::from(rows) * wanted.clamp(SHRINKING, GROWTH);
    let row = (read.byte_len() / looked_at.unwrap_or(read.len()).max(1)).max(1);
    let by_bytes = u32::try_from(CHUNK_BYTES / row).unwrap_or(MAX_ROWS);
    (by_time as u32).min(by_bytes).clamp(1, MAX_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize, bytes: usize) -> Rows {
        let mut rows = Rows::default();
        (0..count).for_each(|_| rows.push("x".repeat(bytes).as_bytes(), 1).unwrap());
        rows
    }

    #[test]
    fn by_time_by_bytes_and_within_bounds() {
        let narrow = rows(10, 10);
        let took = Duration::from_millis;
        assert_eq!(adapted(2_000, (&narrow, None), took(250)), 2_000);
        assert_eq!(adapted(2_000, (&narrow, None), took(125)), 4_000);
        assert_eq!(adapted(2_000, (&narrow, None), took(0)), 16_000);
        assert_eq!(adapted(2_000, (&narrow, None), took(60_000)), 1_000);
        assert_eq!(adapted(150_000, (&narrow, None), took(1)), 200_000);
        assert_eq!(adapted(1, (&narrow, None), took(60_000)), 1);
        // Rows of a megabyte: eight of them, however fast they come.
        assert!((7..=8).contains(&adapted(2_000, (&rows(2, 1 << 20), None), took(1))));
        assert_eq!(adapted(2_000, (&rows(1, 20 << 20), None), took(1)), 1);
        assert_eq!(adapted(2_000, (&Rows::default(), None), took(250)), 2_000);
        // One of a megabyte among two thousand that a condition leaves out.
        assert!(adapted(2_000, (&rows(1, 1 << 20), Some(2_000)), took(125)) > 3_900);
    }
}
