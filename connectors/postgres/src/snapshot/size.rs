//! How many rows a chunk has: so many that what grows with them takes a quarter of a second, as far as those before tell.

use std::time::Duration;

use super::rows::Rows;

/// The rows of a chunk are to take about so long, and no more bytes than this: longer ones hold more back in memory, and in the
/// server its vacuum.
const CHUNK_TIME: f64 = 0.25;
const CHUNK_BYTES: usize = 8 << 20;

/// Rows of the first chunk, and of the largest.
const FIRST_ROWS: u32 = 2_000;
const MAX_ROWS: u32 = 200_000;

/// Fewer than these would hardly be read sooner: for time alone a chunk has no fewer, unless they take longer than whoever
/// wants the table for himself should wait.
const FEW_ROWS: f64 = 1_000.0;
const LONG: f64 = 1.0;

/// A chunk has at most so many times the rows of the one before: the first ones tell little of those behind them. Of one
/// that has taken long less is risked.
const GROWTH: f64 = 8.0;
const GROWTH_OF_LONG: f64 = 2.0;

/// And at least this part.
const SHRINKING: f64 = 0.5;

/// Two chunks whose rows differ by this tell what of their time comes with the rows.
const APART: f64 = 1.4;

/// How many rows the next chunk is to have.
#[derive(Debug)]
pub(super) struct Size {
    rows: u32,
    /// The chunk before: how many rows it was to have, and the seconds that these took.
    before: Option<(f64, f64)>,
    /// What of a chunk's time is the same however many rows it has: the way to the server, and what that has to do before it
    /// comes to the first of them (it sorts the table, or opens a thousand partitions).
    fixed: f64,
}

impl Size {
    pub(super) fn new() -> Self {
        Self { rows: FIRST_ROWS, before: None, fixed: 0.0 }
    }

    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    /// At most so many.
    pub(super) fn limit(&mut self, rows: u32) {
        (self.rows, self.before) = (rows.max(1), None);
    }

    /// A chunk of so many gave these and took so long. `looked_at`: where a condition leaves rows out, all that it was tried on.
    pub(super) fn adapt(&mut self, (read, looked_at): (&Rows, Option<usize>), took: Duration) {
        let (rows, took) = (f64::from(self.rows), took.as_secs_f64());
        self.learn(rows, took);
        let wanted = CHUNK_TIME / (took - self.fixed).max(0.001);
        let growth = if took > LONG { GROWTH_OF_LONG } else { GROWTH };
        let by_time = rows * wanted.clamp(SHRINKING, growth);
        let few = (rows * LONG / took.max(0.001)).min(FEW_ROWS);
        let row = (read.byte_len() / looked_at.unwrap_or(read.len()).max(1)).max(1);
        let by_bytes = u32::try_from(CHUNK_BYTES / row).unwrap_or(MAX_ROWS);
        self.rows = (by_time.max(few) as u32).min(by_bytes).clamp(1, MAX_ROWS);
    }

    fn learn(&mut self, rows: f64, took: f64) {
        let (others, other) = *self.before.get_or_insert((rows, took));
        if rows.max(others) >= rows.min(others) * APART {
            let each = ((took - other) / (rows - others)).max(0.0);
            self.fixed = (took - each * rows).max(0.0);
        }
        self.before = Some((rows, took));
        self.fixed = self.fixed.min(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize, bytes: usize) -> Rows {
        let mut rows = Rows::default();
        (0..count).for_each(|_| rows.push("x".repeat(bytes).as_bytes(), 1).unwrap());
        rows
    }

    /// So many rows behind a chunk of so many that took so long.
    fn adapted(of: u32, read: (&Rows, Option<usize>), millis: u64) -> u32 {
        let mut size = Size::new();
        size.limit(of);
        size.adapt(read, Duration::from_millis(millis));
        size.rows()
    }

    #[test]
    fn by_time_by_bytes_and_within_bounds() {
        let narrow = rows(10, 10);
        assert_eq!(adapted(2_000, (&narrow, None), 250), 2_000);
        assert_eq!(adapted(2_000, (&narrow, None), 125), 4_000);
        assert_eq!(adapted(2_000, (&narrow, None), 0), 16_000);
        assert_eq!(adapted(2_000, (&narrow, None), 60_000), 1_000);
        assert_eq!(adapted(150_000, (&narrow, None), 1), 200_000);
        assert_eq!(adapted(1, (&narrow, None), 60_000), 1);
        // A thousand would take no longer than a second.
        assert_eq!(adapted(1_000, (&narrow, None), 1_000), 1_000);
        assert_eq!(adapted(1_000, (&narrow, None), 3_000), 500);
        // Rows of a megabyte: eight of them, however fast they come.
        assert!((7..=8).contains(&adapted(2_000, (&rows(2, 1 << 20), None), 1)));
        assert_eq!(adapted(2_000, (&rows(1, 20 << 20), None), 1), 1);
        assert_eq!(adapted(2_000, (&Rows::default(), None), 250), 2_000);
        // One of a megabyte among two thousand that a condition leaves out.
        assert!(adapted(2_000, (&rows(1, 1 << 20), Some(2_000)), 125) > 3_900);
    }

    /// The rows of each of so many chunks, of which each takes so long, and each row so long.
    fn chunks(count: usize, fixed: f64, each: f64) -> Vec<u32> {
        let (mut size, narrow) = (Size::new(), rows(10, 10));
        let mut next = || {
            let rows = size.rows();
            size.adapt((&narrow, None), Duration::from_secs_f64(fixed + each * f64::from(rows)));
            rows
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn what_a_chunk_takes_anyway_does_not_make_it_smaller() {
        for fixed in [0.0, 0.08, 0.5, 1.5, 6.0] {
            let last = *chunks(12, fixed, 0.000_02).last().unwrap();
            assert!((10_000..15_000).contains(&last), "{fixed} s: {:?}", chunks(12, fixed, 0.000_02));
        }
    }

    #[test]
    fn slow_rows_hold_nobody_up_for_long() {
        for each in [0.002, 0.01, 0.1] {
            let sizes = chunks(20, 0.04, each);
            assert!(f64::from(*sizes.last().unwrap()) * each <= LONG, "{each} s: {sizes:?}");
            assert!(sizes.windows(2).all(|pair| pair[1] <= pair[0]), "{each} s: {sizes:?}");
        }
    }
}
