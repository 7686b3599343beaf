use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::*;
use crate::config::tree;
use crate::config::value::Assignment;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Section {
    name: String,
    list: Vec<String>,
    on: bool,
    count: Option<u16>,
    share: f64,
    mode: Mode,
    open: BTreeMap<String, String>,
    path: PathBuf,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    One,
    AndTwo,
}

fn of(assignments: Vec<Assignment>) -> Result<Section> {
    let mut tree = tree::build(assignments)?;
    read("s", tree.remove("s").expect("a section"))
}

fn texts(pairs: &[(&str, &str)]) -> Vec<Assignment> {
    pairs.iter().map(|(key, value)| Assignment::dotted(&format!("s.{key}"), *value, Origin::Set)).collect()
}

fn refused(assignments: Vec<Assignment>) -> String {
    let error = of(assignments).unwrap_err();
    format!("{error} | {}", error.remedy().unwrap_or_default())
}

#[test]
fn texts_become_what_is_wanted() {
    let section = of(texts(&[
        ("name", "123"),
        ("list", "a, b"),
        ("on", "yes"),
        ("count", "7"),
        ("share", "0.5"),
        ("mode", "and_two"),
        ("open.x", "5"),
        ("path", "/tmp"),
    ]));
    let expected = Section {
        name: "123".into(),
        list: vec!["a".into(), "b".into()],
        on: true,
        count: Some(7),
        share: 0.5,
        mode: Mode::AndTwo,
        open: BTreeMap::from([("x".into(), "5".into())]),
        path: "/tmp".into(),
    };
    assert_eq!(section.unwrap(), expected);
    assert_eq!(of(texts(&[("list", "['a,b', \"c\"]")])).unwrap().list, ["a,b", "c"]);
    assert_eq!(of(texts(&[("list", "")])).unwrap().list, [] as [String; 0]);
}

#[test]
fn a_file_has_types() {
    let origin = || Origin::File { path: "r.toml".into(), line: 3 };
    let with = |name: &str, value| vec![Assignment::new(vec!["s".into(), name.into()], value, origin())];
    assert_eq!(of(with("list", Value::String("a,b".into()))).unwrap().list, ["a,b"]);
    assert_eq!(of(with("count", Value::Integer(9))).unwrap().count, Some(9));
    let number = refused(with("name", Value::Integer(8080)));
    assert!(number.starts_with("Wrong value for s.name (r.toml, line 3): invalid type: integer"), "{number}");
    let large = refused(with("count", Value::Integer(70_000)));
    assert!(large.contains("70000"), "{large}");
}

#[test]
fn mistakes_are_named_with_their_place() {
    assert_eq!(refused(texts(&[("nmae", "x")])), "Unknown key s.nmae (--set) | Did you mean s.name?");
    let far = refused(texts(&[("zzz", "x")]));
    assert!(far.contains("Known here: name, list, on, count"), "{far}");
    assert_eq!(
        refused(texts(&[("on", "si")])),
        "Wrong value for s.on (--set): \"si\" is not true or false | "
    );
    let mode = refused(texts(&[("mode", "three")]));
    assert!(mode.contains("\"three\" is not a value of it | It can be \"one\", \"and_two\""), "{mode}");
    let value = vec![Assignment::dotted("s", "x", Origin::Set)];
    assert!(refused(value).starts_with("s is a section and takes no value (--set) | Its keys: name"));
}

#[test]
fn what_a_type_does_not_like_has_its_key() {
    #[derive(Debug, Deserialize)]
    struct Kept {
        #[expect(dead_code, reason = "only its reading is looked at")]
        length: crate::config::units::Time,
    }
    let mut tree = tree::build(texts(&[("length", "soon")])).unwrap();
    let error = read::<Kept>("s", tree.remove("s").unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("Wrong value for s.length (--set): \"soon\" is not"), "{error}");
}
