//! All rows of a table, to become a part of the journal whole: the last ones in memory, what does not fit in a file.

use rowcast_engine::event::{Marks, Micros};
use rowcast_engine::ingest::spill_parts;
use rowcast_engine::journal::{Journal, Spill};
use rowcast_engine::record::{Builder, Part};
use rowcast_engine::schema::SchemaId;
use rowcast_engine::{Error, Lsn, Result};

use super::rows::Rows;
use super::told::Told;

/// Rows that are held in memory; what of them is being written takes as much again.
const HELD_MAX: usize = 8 << 20;

/// What the rows have in common.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// The sinks that they are for; none: for everybody.
    pub(crate) sinks: Vec<String>,
    pub(crate) at: Micros,
    /// A position of the moment that they are of.
    pub(crate) lsn: Lsn,
    pub(crate) xmin: u32,
    pub(crate) schema: SchemaId,
    /// Those of the first row, and of all others.
    pub(crate) marks: (Marks, Marks),
}

/// Rows in a file, which vanishes with this.
#[derive(Debug)]
pub(crate) struct Filed {
    /// The group that they are of is open in it.
    pub(crate) builder: Builder,
    pub(crate) file: Spill,
    pub(crate) count: u64,
}

/// Rows that are being read.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) rows: Rows,
    pub(crate) filed: Option<Filed>,
    /// Those that are not among them, since they have been told; none where they are more than memory should hold.
    pub(crate) left_out: Option<Rows>,
}

impl Group {
    pub(crate) fn new() -> Self {
        Self { rows: Rows::default(), filed: None, left_out: Some(Rows::default()) }
    }

    pub(crate) fn count(&self) -> u64 {
        self.rows.len() as u64 + self.filed.as_ref().map_or(0, |filed| filed.count)
    }

    /// Adds a line of COPY's text format, unless it is one of the rows that have been told.
    pub(crate) fn push(&mut self, line: &[u8], columns: u16, told: &mut Told) -> Result<()> {
        self.rows.push(line, columns).ok_or_else(|| {
            Error::failed("COPY gave a row that has another number of columns than its table")
        })?;
        let row = self.rows.iter().next_back().filter(|_| !told.is_empty());
        if let Some(row) = row.filter(|row| told.meet(row)) {
            self.left_out = self.left_out.take().filter(|rows| rows.byte_len() < HELD_MAX);
            self.left_out.iter_mut().for_each(|rows| rows.add(row));
            self.rows.pop();
        }
        Ok(())
    }

    /// Whether there are more rows than memory should hold.
    pub(crate) fn is_full(&self) -> bool {
        self.rows.byte_len() >= HELD_MAX && self.rows.len() >= 2
    }

    /// Writes the rows to the file; the last one stays, to be told as the last. Waits for room on a full disk.
    pub(crate) async fn relieve(&mut self, journal: &Journal, shared: &Shared) -> Result<()> {
        let rows = self.rows.take_all_but_last();
        let mut filed = match self.filed.take() {
            Some(filed) => filed,
            None => Filed::new(journal, shared)?,
        };
        let parts = filed.add(&rows, shared);
        drop(rows);
        filed.file = spill_parts(filed.file, parts).await?;
        self.filed = Some(filed);
        Ok(())
    }
}

impl Filed {
    fn new(journal: &Journal, shared: &Shared) -> Result<Self> {
        let mut builder = Builder::new();
        builder.begin_snapshot_for(&shared.sinks, shared.at, shared.lsn, shared.xmin);
        Ok(Self { builder, file: journal.spill()?, count: 0 })
    }

    fn add(&mut self, rows: &Rows, shared: &Shared) -> Vec<Part> {
        for row in rows.iter() {
            let marks = if self.count == 0 { shared.marks.0 } else { shared.marks.1 };
            self.builder.read(shared.schema, shared.lsn, marks, row);
            self.count += 1;
        }
        self.builder.take_open_parts()
    }
}
