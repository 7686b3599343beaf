//! What a consumer has of a table whose rows nothing tells apart: of each row how many, where he began with an empty table
//! at a place of the journal and followed its events.
//!
//! Rows are known by prints of 128 bits, which take the same memory however large the rows are. Their keys are made anew in
//! each process and told nobody, so that two rows with one print cannot be made up; by chance there are none.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use rowcast_engine::event::Op;
use rowcast_engine::record::{Tuple, Value};
use rowcast_engine::schema::{Column, Identity, Schema, Type, TypeKind};

/// What stands for a row.
pub(crate) type Print = [u64; 2];

/// What one takes with its counts in a table that is half full, about.
const TOLD_BYTES: usize = 80;

static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);

/// The print of a row as snapshots read it.
pub(crate) fn print(row: &[u8]) -> Print {
    KEYS.each_ref().map(|key| key.hash_one(row))
}

/// How a table's rows are written, and what tells them apart. An enumeration's labels are not in it: a new one changes no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form(u64);

impl Form {
    pub(crate) fn of(schema: &Schema) -> Self {
        Self(KEYS[0].hash_one((columns_of(schema).0, &schema.key)))
    }
}

/// What rows look like. Those of two shapes that are not alike cannot be compared.
#[derive(Clone, Debug)]
pub(crate) struct Shape(Arc<Looks>);

#[derive(Debug)]
struct Looks {
    /// Of the rows, and of what events say of them. Versions of a table that differ in nothing else have the same.
    rest: (u32, Identity, u64),
    /// Those of each enumeration.
    labels: Vec<Labels>,
    /// The columns that have one of those for their values, and which.
    enums: Vec<(usize, usize)>,
}

type Labels = Vec<String>;

impl Shape {
    pub(crate) fn of(schema: &Schema) -> Self {
        let (columns, labels, enums) = columns_of(schema);
        Self(Arc::new(Looks { rest: (schema.relation, schema.identity, columns), labels, enums }))
    }

    /// The values of a row's enumerations that are none of their labels. A table that is described late has the labels of then:
    /// what was written before one was given another name is not written so any more. And one that was described early lacks
    /// those that were added.
    fn unknown_labels<'a>(&self, tuple: Tuple<'a>) -> impl Iterator<Item = (usize, &'a [u8])> {
        let mut columns = self.0.enums.iter().peekable();
        tuple.values().enumerate().filter_map(move |(at, value)| {
            let (_, which) = columns.next_if(|(column, _)| *column == at)?;
            let Value::Text(text) = value else { return None };
            (!self.has_label(*which, text)).then_some((*which, text))
        })
    }

    fn has_label(&self, which: usize, text: &[u8]) -> bool {
        self.0.labels.get(which).is_some_and(|all| all.iter().any(|label| label.as_bytes() == text))
    }

    /// Whether a row of the one is written as it would be in the other. Labels of an enumeration are added, and none is taken
    /// away: where one of the other's is missing, it was given another name, and so have values been that had it.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let (one, other) = (&self.0, &other.0);
        let added = |few: &Labels, many: &Labels| {
            let mut many = many.iter();
            few.iter().all(|label| many.any(|other| other == label))
        };
        let mut pairs = one.labels.iter().zip(&other.labels);
        Arc::ptr_eq(one, other)
            || one.rest == other.rest && pairs.all(|(one, other)| added(one, other) || added(other, one))
    }
}

/// More of them are not looked after: who has so many has another enumeration.
const UNLISTED_MAX: usize = 64;

/// Labels that rows have and their versions have not, and in which of the enumerations.
#[derive(Debug, Default)]
pub(crate) struct Unlisted(Vec<(usize, Box<[u8]>)>);

impl Unlisted {
    /// Takes in the rows of a change. False when there are too many.
    pub(crate) fn take_in<'a>(&mut self, shape: &Shape, rows: impl IntoIterator<Item = Tuple<'a>>) -> bool {
        for (which, text) in rows.into_iter().flat_map(|row| shape.unknown_labels(row)) {
            if !self.0.iter().any(|(other, label)| *other == which && **label == *text) {
                self.0.push((which, text.into()));
            }
        }
        self.0.len() <= UNLISTED_MAX
    }

    pub(crate) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// Whether those who read rows of this shape write all of them so.
    pub(crate) fn are_in(&self, shape: &Shape) -> bool {
        self.0.iter().all(|(which, text)| shape.has_label(*which, text))
    }
}

/// A print of its columns but for the labels of their enumerations, those, and the columns whose values are such labels.
fn columns_of(schema: &Schema) -> (u64, Vec<Labels>, Vec<(usize, usize)>) {
    let [key, _] = &*KEYS;
    let (mut labels, mut enums) = (Vec::new(), Vec::new());
    let mut print = |(at, column): (usize, &Column)| {
        let mut ty = column.ty.clone();
        if is_enum(&ty) {
            enums.push((at, labels.len()));
        }
        take_labels(&mut ty, &mut labels);
        // As it is stored with the journal's schema versions.
        let ty = serde_json::to_string(&ty).unwrap_or_default();
        key.hash_one((&column.name, ty, column.typmod))
    };
    let columns: Vec<u64> = schema.columns.iter().enumerate().map(&mut print).collect();
    (key.hash_one(columns), labels, enums)
}

fn is_enum(ty: &Type) -> bool {
    match &ty.kind {
        TypeKind::Enum(_) => true,
        TypeKind::Domain { base, .. } => is_enum(base),
        _ => false,
    }
}

/// Out of all enumerations that a type is made of.
fn take_labels(ty: &mut Type, all: &mut Vec<Labels>) {
    match &mut ty.kind {
        TypeKind::Enum(labels) => all.push(std::mem::take(labels)),
        TypeKind::Array { element: ty, .. } | TypeKind::Vector(ty) | TypeKind::Domain { base: ty, .. } => {
            take_labels(ty, all);
        }
        TypeKind::Composite(fields) => fields.iter_mut().for_each(|field| take_labels(&mut field.ty, all)),
        TypeKind::Base | TypeKind::Opaque | TypeKind::Range => {}
    }
}

/// How many of a row he has, and how many of those a reading has met so far.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    has: u32,
    met: u32,
    /// The reading that met them.
    reading: u32,
}

/// How many of each row he has.
#[derive(Debug, Default)]
pub(crate) struct Told {
    rows: HashMap<Print, Held>,
    /// What they look like.
    pub(crate) shape: Option<Shape>,
    pub(crate) unlisted: Unlisted,
    /// Of all rows: how many he has, and how many of those this reading has met.
    has: u64,
    met: u64,
    reading: u32,
}

impl Told {
    pub(crate) fn byte_len(&self) -> usize {
        self.rows.len() * TOLD_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.has == 0
    }

    pub(crate) fn add(&mut self, row: &[u8]) {
        self.change(print(row), |has| has.saturating_add(1));
    }

    /// He takes away one that he may not have.
    pub(crate) fn remove(&mut self, row: &[u8]) {
        self.change(print(row), |has| has.saturating_sub(1));
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { reading: self.reading, ..Self::default() };
    }

    pub(crate) fn change(&mut self, row: Print, to: impl FnOnce(u32) -> u32) {
        let before = self.has_of(row);
        let now = to(before);
        self.has = self.has - u64::from(before) + u64::from(now);
        if now == 0 {
            self.rows.remove(&row);
        } else {
            self.rows.entry(row).or_default().has = now;
        }
    }

    fn has_of(&self, row: Print) -> u32 {
        self.rows.get(&row).map_or(0, |held| held.has)
    }

    /// A reading begins: it has met none.
    pub(crate) fn begin_reading(&mut self) {
        (self.reading, self.met) = (self.reading.wrapping_add(1), 0);
    }

    /// The table has such a row. Whether he has it already, one more than were met before.
    pub(crate) fn meet(&mut self, row: &[u8]) -> bool {
        let Some(held) = self.rows.get_mut(&print(row)) else { return false };
        if held.reading != self.reading {
            (held.reading, held.met) = (self.reading, 0);
        }
        let meets = held.met < held.has;
        held.met += u32::from(meets);
        self.met += u64::from(meets);
        meets
    }

    /// How many of a row he has, and how many were met.
    pub(crate) fn standing(&self, row: Print) -> (u32, u32) {
        let met = |held: &Held| if held.reading == self.reading { held.met } else { 0 };
        self.rows.get(&row).map_or((0, 0), |held| (held.has, met(held)))
    }

    /// Whether any were met.
    pub(crate) fn has_met(&self) -> bool {
        self.met > 0
    }

    /// How many he has that were not met.
    pub(crate) fn unmet(&self) -> u64 {
        self.has - self.met
    }
}

type Row = Option<Box<[u8]>>;

/// The whole row before a change and the one behind it, as snapshots read them; `None` when the change does not say.
pub(crate) fn rows_of(op: Op, old: Option<Tuple<'_>>, new: Option<Tuple<'_>>) -> Option<(Row, Row)> {
    let is_said = match op {
        Op::Insert | Op::Read => old.is_none() && new.is_some(),
        Op::Update => old.is_some() && new.is_some(),
        Op::Delete => old.is_some() && new.is_none(),
        _ => false,
    };
    is_said.then_some(())?;
    let before = old.map(|old| whole(old, old)).map_or(Some(None), |row| row.map(Some))?;
    let after = new.map(|new| whole(new, old.unwrap_or(new))).map_or(Some(None), |row| row.map(Some))?;
    Some((before, after))
}

/// The tuples of a change, of which the old one is whole; `None` where it is not. `raw` is what follows the relation id in
/// pgoutput's message.
pub(crate) fn tuples_of(raw: &[u8]) -> Option<(Option<Tuple<'_>>, Option<Tuple<'_>>)> {
    let (mut old, mut new) = (None, None);
    let mut rest = raw;
    while let Some((tag, after)) = rest.split_first() {
        let (tuple, after) = Tuple::split(after)?;
        match tag {
            b'O' => old = Some(tuple),
            b'N' => new = Some(tuple),
            _ => return None,
        }
        rest = after;
    }
    Some((old, new))
}

/// A tuple with what it does not say of its values taken from the one before.
fn whole(tuple: Tuple<'_>, before: Tuple<'_>) -> Row {
    let mut bytes = Vec::with_capacity(2 + tuple.byte_len());
    bytes.extend_from_slice(&u16::try_from(tuple.len()).ok()?.to_be_bytes());
    let mut others = before.values();
    for value in tuple.values() {
        let other = others.next();
        match if value == Value::Unchanged { other? } else { value } {
            Value::Null => bytes.push(b'n'),
            Value::Text(text) => {
                bytes.push(b't');
                bytes.extend_from_slice(&u32::try_from(text.len()).ok()?.to_be_bytes());
                bytes.extend_from_slice(text);
            }
            Value::Unchanged => return None,
        }
    }
    Some(bytes.into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::snapshot::model::schema;
    use crate::snapshot::rows::Rows;

    pub(crate) fn tuple(values: &[&str]) -> Vec<u8> {
        let mut bytes = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            match *value {
                "NULL" => bytes.push(b'n'),
                "UNCHANGED" => bytes.push(b'u'),
                text => {
                    bytes.push(b't');
                    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                    bytes.extend_from_slice(text.as_bytes());
                }
            }
        }
        bytes
    }

    pub(crate) fn raw(parts: &[(u8, &[&str])]) -> Vec<u8> {
        parts.iter().flat_map(|(tag, values)| [vec![*tag], tuple(values)].concat()).collect()
    }

    #[test]
    fn a_change_says_whole_rows_or_nothing() {
        let row = |values: &[&str]| Some(tuple(values).into_boxed_slice());
        let said = |op, parts: &[(u8, &[&str])]| {
            let raw = raw(parts);
            let (old, new) = tuples_of(&raw)?;
            rows_of(op, old, new)
        };
        assert_eq!(said(Op::Insert, &[(b'N', &["1", "NULL"])]), Some((None, row(&["1", "NULL"]))));
        let update: &[(u8, &[&str])] = &[(b'O', &["1", "large"]), (b'N', &["2", "UNCHANGED"])];
        assert_eq!(said(Op::Update, update), Some((row(&["1", "large"]), row(&["2", "large"]))));
        assert_eq!(said(Op::Delete, &[(b'O', &["1", "x"])]), Some((row(&["1", "x"]), None)));
        assert_eq!(said(Op::Delete, &[(b'K', &["1", "NULL"])]), None);
        assert_eq!(said(Op::Update, &[(b'N', &["1", "x"])]), None);
        assert_eq!(said(Op::Insert, &[(b'N', &["1", "UNCHANGED"])]), None);
    }

    #[test]
    fn shapes_are_alike_but_for_labels_that_were_added() {
        let of = |identity, name: &str, labels: &[&str]| {
            let kind = TypeKind::Enum(labels.iter().map(ToString::to_string).collect());
            let mood = Type { oid: 20_000, name: name.to_owned(), kind };
            let ty =
                Type { kind: TypeKind::Array { element: mood.into(), delimiter: ',' }, ..Type::base(1, "") };
            let column = Column { name: "m".to_owned(), ty, typmod: -1, identity: false, not_null: false };
            Shape::of(&Schema { identity, columns: vec![column], ..schema() })
        };
        let told = of(Identity::Full, "mood", &["sad", "ok"]);
        let is_like = |labels: &[&str]| {
            let now = of(Identity::Full, "mood", labels);
            assert_eq!(told.is_like(&now), now.is_like(&told), "{labels:?}");
            told.is_like(&now)
        };
        assert!(
            is_like(&["sad", "ok"]) && is_like(&["worse", "sad", "so so", "ok", "happy"]) && is_like(&["ok"])
        );
        assert!(
            !is_like(&["sad", "well"]) && !is_like(&["ok", "sad"]) && !is_like(&["sad", "well", "happy"])
        );
        assert!(!told.is_like(&of(Identity::Nothing, "mood", &["sad", "ok"])));
        assert!(!told.is_like(&of(Identity::Full, "other", &["sad", "ok"])));
    }

    #[test]
    fn a_label_that_no_version_has_is_noticed_and_one_that_was_added_is_none() {
        let of = |labels: &[&str]| {
            let kind = TypeKind::Enum(labels.iter().map(ToString::to_string).collect());
            let mood = Type { oid: 20_000, name: "mood".to_owned(), kind };
            let kind = TypeKind::Domain { base: mood.clone().into(), typmod: -1 };
            let domain = Type { kind, ..Type::base(1, "") };
            let column = |ty: &Type| Column {
                name: "m".to_owned(),
                ty: ty.clone(),
                typmod: -1,
                identity: false,
                not_null: false,
            };
            let columns = [Type::base(25, "text"), mood, Type::base(25, "text"), domain];
            Shape::of(&Schema { columns: columns.iter().map(column).collect(), ..schema() })
        };
        let late = of(&["blue", "ok"]);
        let unlisted = |rows: &[&[&str]]| {
            let mut unlisted = Unlisted::default();
            let rows: Vec<_> = rows.iter().map(|row| tuple(row)).collect();
            assert!(unlisted.take_in(&late, rows.iter().map(|row| Tuple::split(row).unwrap().0)));
            unlisted
        };
        let ok: &[&str] = &["sad", "ok", "sad", "blue"];
        assert!(unlisted(&[ok, &["x", "NULL", "x", "UNCHANGED"]]).are_in(&late));
        for row in [["x", "sad", "x", "ok"], ["x", "ok", "x", "sad"]] {
            let unlisted = unlisted(&[ok, &row, &row]);
            assert!(!unlisted.are_in(&late) && unlisted.are_in(&of(&["blue", "sad", "ok"])), "{row:?}");
        }
        let mut many = Unlisted::default();
        let rows: Vec<_> = (0..=UNLISTED_MAX).map(|at| tuple(&["x", &at.to_string(), "x", "ok"])).collect();
        let taken = rows.iter().map(|row| many.take_in(&late, [Tuple::split(row).unwrap().0]));
        assert_eq!(taken.filter(|taken| !taken).count(), 1);
    }

    /// As COPY's rows: else none would be found again.
    #[test]
    fn rows_of_the_stream_are_those_of_a_snapshot() {
        let mut rows = Rows::default();
        rows.push(b"1\\t\\\\N\t\\N\n", 2).unwrap();
        let raw = raw(&[(b'N', &["1\t\\N", "NULL"])]);
        let (old, new) = tuples_of(&raw).unwrap();
        let (_, new) = rows_of(Op::Insert, old, new).unwrap();
        assert_eq!(rows.iter().next(), new.as_deref());
    }

    #[test]
    fn what_he_has_is_met_once_a_reading() {
        let mut told = Told::default();
        let (a, b) = (&b"a"[..], &b"b"[..]);
        told.remove(a);
        [a, a, b].into_iter().for_each(|row| told.add(row));
        told.remove(b);
        assert!(!told.is_empty() && told.byte_len() == TOLD_BYTES);
        for _ in 0..2 {
            told.begin_reading();
            let meets = |told: &mut Told, row| told.meet(row);
            assert_eq!([a, a, a, b].map(|row| meets(&mut told, row)), [true, true, false, false]);
            assert_eq!((told.standing(print(a)), told.unmet()), ((2, 2), 0));
        }
        told.begin_reading();
        assert_eq!((told.standing(print(a)), told.unmet()), ((2, 0), 2));
        told.clear();
        assert!(told.is_empty() && !told.meet(a) && told.unmet() == 0);
    }
}
