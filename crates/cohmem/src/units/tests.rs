//! Tests of the module above.

use super::*;

#[test]
fn sizes_are_read_with_units() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("64K", 64 << 10),
        ("64k", 64 << 10),
        ("2M", 2 << 20),
        ("2MiB", 2 << 20),
        ("1G", 1 << 30),
        ("3T", 3 << 40),
        ("0x1000", 4096),
        ("0xE", 14),
    ] {
        assert_eq!(text.parse::<ByteCount>().unwrap().get(), bytes, "{text}");
    }
    for text in [
        "", "K", "-1", "+1", "1.5G", "0x", "0x+1", "16E", "12Q", "1 G",
    ] {
        let error = text.parse::<ByteCount>().unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }
}

#[test]
fn sizes_are_shown_in_binary_units() {
    for (bytes, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.50 KiB"),
        (256 << 20, "256 MiB"),
        (u64::MAX, "15.99 EiB"),
    ] {
        assert_eq!(ByteCount::new(bytes).to_string(), text);
    }
}

#[test]
fn ranges_are_read_both_ways() {
    for text in [
        "0x100000000-0x110000000",
        "0x100000000+256M",
        "4294967296+0x10000000",
    ] {
        let range: PhysRange = text.parse().unwrap();
        assert_eq!(
            (range.start(), range.end()),
            (0x1_0000_0000, 0x1_1000_0000),
            "{text}"
        );
    }
    for (text, says) in [
        ("0x2000-0x1000", "ends below its start"),
        ("0xfffffffffffff000+8K", "wraps"),
        ("0x1000", "START-END"),
        ("x-y", "START-END"),
        ("0x1000+x", "size \"x\""),
    ] {
        let error = text.parse::<AddrRange>().unwrap_err();
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
}

#[test]
fn a_slice_is_covered_by_whole_pages() {
    let bytes = vec![0_u8; 3 * 4096];
    let range = AddrRange::covering(&bytes[1..]);
    assert_eq!(range.start().get() % FRAME_BYTES, 0);
    assert_eq!(range.end().get() % FRAME_BYTES, 0);
    assert!(range.nr_pages() >= 3 && range.nr_pages() <= 4);
}
