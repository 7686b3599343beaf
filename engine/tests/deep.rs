//! Types within types: what is stored can be read back, and what cannot be read is said.

use std::path::Path;

use rowcast_engine::Lsn;
use rowcast_engine::event::Op;
use rowcast_engine::journal::Options;
use rowcast_engine::record::Builder;
use rowcast_engine::schema::{Column, Field, Schema, Type, TypeKind};

use crate::log;
use crate::support::{Fixture, insert, read_all, table, without_indexes};

/// A table with a column of so many row types within each other, around an array.
fn nested(depth: usize) -> Schema {
    let element = Box::new(Type::base(23, "int4"));
    let mut ty =
        Type { oid: 1007, name: "_int4".to_owned(), kind: TypeKind::Array { element, delimiter: ',' } };
    for _ in 0..depth {
        let field = Field { name: "x".to_owned(), ty };
        ty = Type { oid: 99_000, name: "t".to_owned(), kind: TypeKind::Composite(vec![field]) };
    }
    let mut schema = table(&format!("nested_{depth}"));
    schema.columns[1] = Column { ty, ..schema.columns[1].clone() };
    schema
}

async fn with_rows(fixture: &mut Fixture, schema: u32, rows: u64) {
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    for id in 0..rows {
        builder.change(schema, Op::Insert, Lsn(fixture.lsn - 50), &insert(id, "({1})"));
    }
    fixture.commit(&mut builder);
    fixture.submit(&mut builder).await;
}

#[tokio::test]
async fn the_deepest_types_that_are_taken_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let refused = fixture.journal().register(nested(31)).unwrap_err();
    assert!(refused.to_string().contains("public.nested_31"), "{refused}");
    assert!(refused.remedy().unwrap().contains("nested too deep"), "{refused}");
    // As deep as the catalog is followed, and as deep as goes.
    for depth in [24, 30] {
        let deepest = fixture.journal().register(nested(depth)).unwrap();
        with_rows(&mut fixture, deepest.id, 3).await;
    }
    let all = read_all(fixture.journal(), 0);
    assert_eq!(all.len(), 6);
    fixture.journal().close().await;
    drop(fixture);
    without_indexes(dir.path());
    assert_eq!(read_all(Fixture::open(Options::new(dir.path())).await.journal(), 0), all);
}

/// Makes a description unreadable, with the right checksum: as one that another version of rowcast has written.
fn spoil(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let word = br#""identity":"default""#;
        let Some(at) = bytes.windows(word.len()).position(|found| found == word) else { continue };
        bytes[at + word.len() - 2] = b'x';
        let batch = (0..at).rev().find(|at| bytes[*at..].starts_with(b"RCB1")).unwrap();
        let length = u32::from_le_bytes(bytes[batch + 8..batch + 12].try_into().unwrap()) as usize;
        let crc = crc32c::crc32c(&bytes[batch + 8..batch + length]);
        bytes[batch + 4..batch + 8].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
    }
}

#[tokio::test]
async fn a_description_that_cannot_be_read_is_told_at_each_opening() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(2, "x").await;
    fixture.journal().close().await;
    drop(fixture);
    without_indexes(dir.path());
    spoil(dir.path());
    log::record();
    let told = || log::logged(&dir.path().display().to_string(), "tables in a way that cannot be read").len();
    for opened in 1..3 {
        let fixture = Fixture::open(Options::new(dir.path())).await;
        assert_eq!(told(), opened);
        fixture.journal().close().await;
    }
}
