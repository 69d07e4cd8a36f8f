use std::sync::Arc;

use super::*;
use crate::base::Slot;
use crate::device::{CrashDisk, Effect, FaultDevice, MemoryDevice, Operation, When};
use crate::ondisk::slots_for;

const STORE: Uuid = Uuid([7; 16]);
const LEN: u64 = 8 << 20;

fn geometry() -> Geometry {
    Geometry::default()
}

fn record(number: u16) -> DeviceRecord {
    DeviceRecord {
        device: DeviceNo(number),
        uuid: [number as u8 + 1; 16],
        path: format!("pool{number}"),
        slots: slots_for(LEN, geometry()),
    }
}

fn blank(number: u16) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(format!("pool{number}"), LEN))
}

fn format_as(device: &dyn Device, number: u16, force: Force) -> Result<(), PoolError> {
    format(device, STORE, &record(number), geometry(), force)
}

fn formatted(number: u16) -> Arc<MemoryDevice> {
    let device = blank(number);
    format_as(device.as_ref(), number, Force::No).unwrap();
    device
}

fn pool(devices: &[u16]) -> Pool {
    let pool = Pool::new(geometry(), STORE);
    for number in devices {
        pool.attach(&record(*number), formatted(*number)).unwrap();
    }
    pool
}

fn place(device: u16, slot: u64) -> Place {
    Place {
        device: DeviceNo(device),
        slot: Slot(slot),
    }
}

#[test]
fn blocks_are_where_they_were_put() {
    let pool = pool(&[0, 3]);
    let (one, two) = ([1; BLOCK], [2; 2 * BLOCK]);
    pool.write(place(3, 15), 62, &[IoSlice::new(&two)]).unwrap();
    pool.write(place(0, 0), 0, &[IoSlice::new(&one), IoSlice::new(&two)])
        .unwrap();
    let mut buf = [0; 2 * BLOCK];
    pool.read(place(3, 15), 62, &mut buf).unwrap();
    assert_eq!(buf, two);
    pool.read(place(0, 0), 1, &mut buf).unwrap();
    assert_eq!(buf, two);
    assert!(pool.punch(place(0, 0), 1..2).unwrap());
    pool.read(place(0, 0), 1, &mut buf).unwrap();
    assert_eq!(buf[..BLOCK], [0; BLOCK]);
    assert_eq!(buf[BLOCK..], [2; BLOCK]);
    // The superblock is still there.
    let devices = pool.devices();
    assert_eq!(devices.len(), 2);
    assert_eq!((devices[1].number, devices[1].slots), (DeviceNo(3), 16));
    assert_eq!(devices[1].allocated, Some(3 * BLOCK_SIZE));
    assert_eq!(pool.name(DeviceNo(3)), "pool3");
}

#[test]
fn blocks_that_do_not_exist_are_refused() {
    let pool = pool(&[0]);
    let mut buf = [0; BLOCK];
    let outside = |result| assert!(matches!(result, Err(PoolError::Outside { .. })));
    outside(pool.read(place(0, 16), 0, &mut buf));
    outside(pool.read(place(0, u64::MAX), 0, &mut buf));
    outside(pool.read(place(0, 0), 64, &mut buf));
    outside(pool.read(place(0, 0), usize::MAX, &mut buf));
    outside(pool.write(place(0, 15), 64, &[IoSlice::new(&buf)]));
    outside(pool.punch(place(0, 0), 63..65).map(drop));
    let partial = pool.read(place(0, 0), 0, &mut buf[1..]);
    assert!(matches!(partial, Err(PoolError::Partial(4095))));
    let missing = pool.read(place(1, 0), 0, &mut buf);
    assert!(matches!(missing, Err(PoolError::Missing(DeviceNo(1)))));
}

#[test]
fn each_device_is_synced_once_and_a_failure_shows() {
    let pool = Pool::new(geometry(), STORE);
    let devices: Vec<_> = (0..3)
        .map(|number| {
            let device = Arc::new(FaultDevice::new(formatted(number)));
            pool.attach(&record(number), device.clone()).unwrap();
            device
        })
        .collect();
    pool.sync(&[]).unwrap();
    pool.sync(&[2, 0, 2, 0].map(DeviceNo)).unwrap();
    let syncs = || [0, 1, 2].map(|n: usize| devices[n].calls(Operation::Sync));
    assert_eq!(syncs(), [1, 0, 1]);
    for (failing, device) in devices.iter().enumerate() {
        device.plan(Operation::Sync, When::Nth(1), Effect::Fail(libc::EIO));
        let error = pool.sync(&[0, 1, 2].map(DeviceNo)).unwrap_err();
        assert!(
            error.to_string().contains(&format!("pool{failing}")),
            "{error}"
        );
    }
    let missing = pool.sync(&[DeviceNo(0), DeviceNo(9)]);
    assert!(matches!(missing, Err(PoolError::Missing(DeviceNo(9)))));
}

#[test]
fn only_the_device_that_the_record_means_is_attached() {
    let wrong = |record: &DeviceRecord, device: Arc<dyn Device>| {
        let error = Pool::new(geometry(), STORE).attach(record, device);
        match error.unwrap_err() {
            PoolError::Super { source, .. } => source,
            other => panic!("{other}"),
        }
    };
    assert_eq!(wrong(&record(0), blank(0)), SuperError::NotSnapmark);
    let tiny = Arc::new(MemoryDevice::new("tiny", 10));
    assert_eq!(wrong(&record(0), tiny), SuperError::NotSnapmark);
    let swapped = wrong(&record(0), formatted(1));
    assert!(matches!(swapped, SuperError::OtherDevice { .. }));
    let short = Arc::new(MemoryDevice::from_bytes(
        "short",
        &formatted(0).to_bytes()[..LEN as usize - BLOCK],
    ));
    let short = wrong(&record(0), short);
    assert!(matches!(short, SuperError::TooShort { .. }));

    let other = Pool::new(geometry(), Uuid([8; 16]));
    assert!(other.attach(&record(0), formatted(0)).is_err());
    let twice = pool(&[0]).attach(&record(0), formatted(0));
    assert!(matches!(twice, Err(PoolError::Attached { .. })));
}

#[test]
fn a_device_that_holds_something_is_not_overwritten() {
    let ext4 = blank(0);
    ext4.write_at(&[IoSlice::new(&[0x53, 0xef])], 1080).unwrap();
    let refused = format_as(ext4.as_ref(), 0, Force::No).unwrap_err();
    assert!(refused.to_string().contains("ext4"), "{refused}");
    format_as(ext4.as_ref(), 0, Force::Yes).unwrap();
    // A text has no mark, and is as dear.
    let text = blank(1);
    text.write_at(&[IoSlice::new(b"x")], 1000).unwrap();
    let refused = format_as(text.as_ref(), 0, Force::IfEmpty).unwrap_err();
    assert!(refused.to_string().contains("data"), "{refused}");
    format_as(text.as_ref(), 0, Force::No).unwrap();

    let ours = formatted(1);
    let refused = format_as(ours.as_ref(), 0, Force::Yes);
    assert!(matches!(refused, Err(PoolError::Ours { .. })));
    let other = format(
        ours.as_ref(),
        Uuid([8; 16]),
        &record(1),
        geometry(),
        Force::Yes,
    );
    assert!(matches!(other, Err(PoolError::Ours { .. })));
    // Damaged, it is still somebody's.
    ours.write_at(&[IoSlice::new(&[1])], 100).unwrap();
    let refused = format_as(ours.as_ref(), 1, Force::Yes);
    assert!(matches!(refused, Err(PoolError::Ours { .. })));

    let small = MemoryDevice::new("small", LEN - 1);
    let refused = format_as(&small, 0, Force::No);
    assert!(matches!(refused, Err(PoolError::Small { .. })));
    let tiny = MemoryDevice::new("tiny", 10);
    assert!(format_as(&tiny, 0, Force::No).is_err());
}

#[test]
fn an_interrupted_addition_can_be_repeated() {
    let device = formatted(0);
    let mut again = record(0);
    again.uuid = [0x55; 16];
    format(device.as_ref(), STORE, &again, geometry(), Force::No).unwrap();
    let pool = Pool::new(geometry(), STORE);
    pool.attach(&again, device).unwrap();
}

#[test]
fn power_loss_while_a_device_is_made_leaves_it_blank_or_made() {
    let disk = CrashDisk::new();
    format_as(disk.device("pool0", LEN).as_ref(), 0, Force::No).unwrap();
    let attach = |image: Arc<MemoryDevice>| Pool::new(geometry(), STORE).attach(&record(0), image);
    for event in 0..=disk.crash_points() {
        for seed in 0..50 {
            let image = disk.image_at(event, seed)["pool0"].clone();
            if event == disk.crash_points() {
                attach(image.clone()).unwrap();
            }
            format_as(image.as_ref(), 0, Force::No).unwrap();
            attach(image).unwrap();
        }
    }
}

#[test]
fn devices_can_be_attached_while_others_are_read() {
    let pool = pool(&[0]);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buf = [0; BLOCK];
            while pool.read(place(40, 0), 0, &mut buf).is_err() {
                pool.read(place(0, 1), 0, &mut buf).unwrap();
            }
        });
        for number in 1..=40 {
            pool.attach(&record(number), formatted(number)).unwrap();
        }
        reader.join().unwrap();
    });
    assert_eq!(pool.devices().len(), 41);
}
