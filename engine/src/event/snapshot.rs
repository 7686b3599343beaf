//! What is told of a row that a snapshot read, beside the row.

use std::ops::BitOr;

/// Where a row stands in its snapshot, and what kind of snapshot that is.
///
/// Several hold at once: a table of one row has its first and its last in it. An initial snapshot's rows have an empty
/// set but for the rows at its ends.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Marks(u8);

impl Marks {
    /// A row of an initial snapshot, at neither end of its table.
    pub const NONE: Self = Self(0);
    /// The first row of the whole snapshot. As with Debezium, none where the table that it begins with is empty.
    pub const FIRST: Self = Self(1);
    /// The last row of the whole snapshot.
    pub const LAST: Self = Self(2);
    /// The first row of its table.
    pub const FIRST_IN_TABLE: Self = Self(4);
    /// The last row of its table.
    pub const LAST_IN_TABLE: Self = Self(8);
    /// The snapshot was asked for while the stream went on; without it, it is the initial one.
    pub const AD_HOC: Self = Self(16);

    /// The places with their names, in their order.
    const PLACES: [(Self, &'static str); 4] = [
        (Self::FIRST, "first"),
        (Self::FIRST_IN_TABLE, "first_in_table"),
        (Self::LAST_IN_TABLE, "last_in_table"),
        (Self::LAST, "last"),
    ];

    /// As it is stored.
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// From a file, where bits may stand that this version does not know; they are kept.
    pub(crate) fn of_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether all of these are set.
    pub fn has(self, marks: Self) -> bool {
        self.0 & marks.0 == marks.0
    }

    /// The names of the places that the row stands at, those of the whole snapshot at the ends.
    pub fn places(self) -> impl Iterator<Item = &'static str> {
        Self::PLACES.into_iter().filter(move |(mark, _)| self.has(*mark)).map(|(_, name)| name)
    }

    /// The name of the kind of snapshot.
    pub fn kind(self) -> &'static str {
        if self.has(Self::AD_HOC) { "ad_hoc" } else { "initial" }
    }
}

impl BitOr for Marks {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.kind())?;
        self.places().try_for_each(|place| write!(f, " {place}"))
    }
}

/// The snapshot of a row that one read. The row is as it was at the event's `lsn`; `at` is the snapshot's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the row stands in it.
    pub marks: Marks,
    /// The snapshot's xmin, its lower 32 bits: transactions before it are in the row.
    pub xid: u32,
}
