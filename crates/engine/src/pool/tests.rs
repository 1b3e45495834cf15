use super::*;
use crate::ErrorKind;

#[test]
fn a_pool_hands_out_whole_granules_until_it_is_empty() {
    let pool = Pool::memfd(&PoolOptions::new(256 << 10)).unwrap();
    assert_eq!(pool.free_bytes(), 256 << 10);
    let first = pool.take(3, Granule::MEDIUM).unwrap();
    assert_eq!((first.slot, first.nr_granules), (0, 3));
    let small = pool.take(1, Granule::SMALLEST).unwrap();
    // 60 KiB are left, which is no granule.
    assert_eq!(
        pool.take(1, Granule::MEDIUM).unwrap_err(),
        Shortage::NoFrame
    );
    assert_eq!(pool.free_bytes(), 60 << 10);
    pool.give_back(small.slot, 4096);
    assert_eq!(pool.take(9, Granule::MEDIUM).unwrap().nr_granules, 1);
    assert_eq!(pool.free_bytes(), 0);
}

#[test]
fn the_memory_cannot_be_shrunk() {
    let pool = Pool::memfd(&PoolOptions::new(1 << 20)).unwrap();
    for length in [0, 4096, 2 << 20] {
        let refused = rustix::fs::ftruncate(pool.mapping().file(), length).unwrap_err();
        assert_eq!(refused, Errno::PERM);
    }
    let seals = rustix::fs::SealFlags::empty();
    assert_eq!(
        rustix::fs::fcntl_add_seals(pool.mapping().file(), seals).unwrap_err(),
        Errno::PERM
    );
}

#[test]
fn bad_sizes_and_files_are_refused_with_the_value() {
    let refused = |options: PoolOptions| {
        let error = Pool::memfd(&options).unwrap_err();
        (error.kind(), error.to_string())
    };
    assert_eq!(refused(PoolOptions::new(0)).0, ErrorKind::BadSize);
    let (kind, text) = refused(PoolOptions::new(100 << 10).frame(Granule::MEDIUM));
    assert_eq!(kind, ErrorKind::BadSize);
    assert_eq!(
        text,
        "pool of 102400 bytes: must be a multiple of its frames of 65536 bytes"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Pool::dax(file.path(), None).unwrap_err();
    assert!(error.to_string().contains("is no device-dax memory"));
    assert_eq!(error.kind(), ErrorKind::System);
    let error = Pool::dax(Path::new("/dev/null"), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::System);
    let error = Pool::dax(Path::new("/nonexistent"), None).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}
