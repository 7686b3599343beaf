//! Old rows that the server calls whole by their root, while only the key of the partition's was logged.

use rowcast_engine::event::Op;

use super::Touched;
use crate::snapshot::told::tests::raw;

/// The value that was not sent is nowhere: the row is read again. Of a whole old row it would be there.
#[test]
fn what_such_a_row_lacks_is_not_in_it() {
    let update = raw(&[(b'O', &["1", "NULL"]), (b'N', &["2", "UNCHANGED"])]);
    let incomplete = |full| Touched::by(Op::Update, &update, &[0], full).unwrap().incomplete;
    assert!(incomplete(false) && !incomplete(true));
}
