//! A process for tests of pictures.

use cohmem::{AddrRange, Extent, Place, UserAddr, Vma};

use super::Survey;

const MAPS: &str = "\
55d0c8a00000-55d0c8c00000 r-xp 00000000 fe:01 77 /usr/bin/redis-check-rdb
55d0ca000000-55d0ca200000 rw-p 00000000 00:00 0 [heap]
7f1000000000-7f1008000000 rw-p 00000000 00:00 0
7f1040000000-7f2940000000 ---p 00000000 00:00 0
7f2980000000-7f2980200000 r-xp 00000000 fe:01 78 /usr/lib/x86_64-linux-gnu/libcrypto.so.3
7f2980200000-7f2980201000 r--p 00000000 00:00 0 [vvar]
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]
";

/// 128 MiB of data, of which half is on devices, in an address space of 100 GiB.
pub(crate) fn survey() -> Survey {
    let vmas = MAPS.lines().map(|line| Vma::parse(line).unwrap());
    let mut survey = Survey::of_mappings(4711, vmas.collect());
    survey.name = "redis-server".to_owned();
    let mut at = 0;
    for (start, end, place) in [
        (0x55d0_c8a0_0000, 0x55d0_c8b4_0000, Place::File),
        (0x55d0_ca00_0000, 0x55d0_ca18_0000, Place::System),
        (0x7f10_0000_0000, 0x7f10_0300_0000, Place::Device(0)),
        (0x7f10_0300_0000, 0x7f10_0400_0000, Place::Device(1)),
        (0x7f10_0400_0000, 0x7f10_0600_0000, Place::System),
        (0x7f10_0600_0000, 0x7f10_0608_0000, Place::Swap),
        (0x7f10_0700_0000, 0x7f10_0700_1000, Place::Zero),
        (0x7f29_8000_0000, 0x7f29_8008_0000, Place::File),
        (0x7ffe_0001_e000, 0x7ffe_0002_1000, Place::System),
    ] {
        let range = AddrRange::new(UserAddr::new(start), UserAddr::new(end)).unwrap();
        survey.add(Extent { range, place }, &mut at);
    }
    survey
}
