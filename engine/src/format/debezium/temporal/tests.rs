use super::*;

type Write = fn(&mut Vec<u8>, &[u8]) -> Result<(), ValueError>;

fn check(write: Write, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let mut out = Vec::new();
        write(&mut out, text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(String::from_utf8(out).unwrap(), *expected, "{text}");
    }
}

fn refuse(write: Write, error: ValueError, texts: &[&str]) {
    for text in texts {
        assert_eq!(write(&mut Vec::new(), text.as_bytes()), Err(error), "{text:?}");
    }
}

#[test]
fn dates_count_days() {
    check(
        write_date,
        &[
            ("1970-01-01", "0"),
            ("2026-01-02", "20455"),
            ("9999-12-31", "2932896"),
            ("0001-01-01 BC", "-719528"),
            ("4713-01-01 BC", "-2440550"),
            ("5874897-12-31", "2145042905"),
            ("infinity", "\"infinity\""),
            ("-infinity", "\"-infinity\""),
        ],
    );
    refuse(
        write_date,
        ValueError::DATE,
        &["", "2026", "2026-13-01", "2026-01-01-01", "x-01-01", "2026-01-01 AD", "-1-1-1"],
    );
}

#[test]
fn times_count_what_their_precision_says() {
    check(
        |out, text| write_time(out, text, false, false),
        &[
            ("03:04:05.678901", "11045678901"),
            ("24:00:00", "86400000000"),
            ("00:00:00.000001", "1"),
            ("12:00:00", "43200000000"),
        ],
    );
    check(
        |out, text| write_time(out, text, true, false),
        &[("03:04:05.678", "11045678"), ("23:59:59", "86399000")],
    );
    check(|out, text| write_time(out, text, false, true), &[("03:04:05.678901", "11045678000")]);
    refuse(
        |out, text| write_time(out, text, false, false),
        ValueError::TIME,
        &["", "03:04", "3:04:05", "03:04:05.1234567", "03:04:05."],
    );
}

#[test]
fn timestamps_count_from_1970() {
    check(
        |out, text| write_timestamp(out, text, false),
        &[
            ("2026-01-02 03:04:05.678901", "1767323045678901"),
            ("9999-12-31 23:59:59.999999", "253402300799999999"),
            ("0044-03-15 12:00:00 BC", "-63517780800000000"),
            ("1500-02-28 01:02:03.5", "-14826754676500000"),
            ("294276-12-31 23:59:59.999999", "\"294276-12-31 23:59:59.999999\""),
            ("infinity", "9223372036825200000"),
            ("-infinity", "-9223372036832400000"),
        ],
    );
    check(
        |out, text| write_timestamp(out, text, true),
        &[
            ("1969-12-31 23:59:59.999", "-1"),
            ("1969-12-31 23:59:59", "-1000"),
            ("infinity", "9223372036825200"),
        ],
    );
    refuse(
        |out, text| write_timestamp(out, text, false),
        ValueError::TIMESTAMP,
        &["", "now", "2026-01-02", "2026-01-02 ", "2026-01-02T03:04:05"],
    );
}

#[test]
fn zoned_timestamps_have_all_their_digits() {
    check(
        |out, text| write_zoned_timestamp(out, text, 6),
        &[
            ("2026-01-02 03:04:05.678901+00", "\"2026-01-02T03:04:05.678901Z\""),
            ("2026-01-02 03:04:05.1+00", "\"2026-01-02T03:04:05.100000Z\""),
            ("2026-10-25 02:30:00+02", "\"2026-10-25T00:30:00.000000Z\""),
            ("0044-03-15 12:00:00+00 BC", "\"-0043-03-15T12:00:00.000000Z\""),
            ("12026-01-02 03:04:05+00", "\"+12026-01-02T03:04:05.000000Z\""),
            ("infinity", "\"infinity\""),
        ],
    );
    check(
        |out, text| write_zoned_timestamp(out, text, 3),
        &[("1969-12-31 23:59:59.999+00", "\"1969-12-31T23:59:59.999Z\"")],
    );
    check(
        |out, text| write_zoned_timestamp(out, text, 0),
        &[("2026-01-02 03:04:05-05:30", "\"2026-01-02T08:34:05Z\"")],
    );
}

#[test]
fn zoned_times_have_the_digits_they_need() {
    check(
        |out, text| write_zoned_time(out, text, false),
        &[
            ("03:04:05.678901+02", "\"01:04:05.678901Z\""),
            ("23:59:59.999999-12:30", "\"12:29:59.999999Z\""),
            ("00:00:00.1-08", "\"08:00:00.1Z\""),
            ("12:00:00+05:45", "\"06:15:00Z\""),
            ("24:00:00+00", "\"00:00:00Z\""),
            ("00:00:00+00:19:32", "\"23:40:28Z\""),
        ],
    );
    check(|out, text| write_zoned_time(out, text, true), &[("03:04:05.678901+02", "\"01:04:05Z\"")]);
    refuse(
        |out, text| write_zoned_time(out, text, false),
        ValueError::TIME,
        &["", "noon", "12:00:00+", "12:00:00+x"],
    );
}

#[test]
fn intervals_count_microseconds() {
    check(
        write_interval,
        &[
            ("P1Y2M3DT4H5M6.789S", "37091106789000"),
            ("P-1DT2H3M4S", "-79016000000"),
            ("P1M-1DT0.000001S", "2543400000001"),
            ("PT0S", "0"),
            ("P-1Y-2M", "-36817200000000"),
            ("PT-0.5S", "-500000"),
            ("P178000000Y", "\"P178000000Y\""),
            ("infinity", "\"infinity\""),
        ],
    );
    refuse(
        write_interval,
        ValueError::INTERVAL,
        &["", "1 day", "P1", "P1X", "PT1D", "P1.2.3D", "PYT", "PT1T1S"],
    );
}
