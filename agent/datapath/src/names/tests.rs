// SPDX-License-Identifier: Apache-2.0
//! The names file over the life of an agent.

use super::*;

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("knarr-names-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn backend(id: u32) -> Named {
    Named::Backend {
        id,
        pod: format!("default/web-{id}"),
        node: "node-1".to_owned(),
    }
}

#[test]
fn names_come_and_go_and_no_file_means_no_names() {
    let dir = directory("life");
    assert_eq!(Names::read(&dir).unwrap(), Names::default());
    let mut file = NamesFile::create(&dir);
    let service = Named::Service {
        id: 1,
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        port_name: "http".to_owned(),
    };
    file.append(&[service, backend(7)]).unwrap();
    file.append(&[backend(8), Named::BackendGone { id: 7 }])
        .unwrap();
    let names = Names::read(&dir).unwrap();
    assert_eq!(names.services[&1].name, "web");
    assert_eq!(names.backends.keys().collect::<Vec<_>>(), [&8]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_new_agent_replaces_the_file_only_when_it_has_names() {
    let dir = directory("replace");
    NamesFile::create(&dir).append(&[backend(1)]).unwrap();
    let mut file = NamesFile::create(&dir);
    assert_eq!(Names::read(&dir).unwrap().backends.len(), 1);
    file.append(&[backend(2)]).unwrap();
    let names = Names::read(&dir).unwrap();
    assert_eq!(names.backends.keys().collect::<Vec<_>>(), [&2]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_file_of_mostly_dead_lines_shrinks() {
    let dir = directory("shrink");
    let mut file = NamesFile::create(&dir);
    file.append(&[backend(0)]).unwrap();
    for id in 1..=4_000 {
        file.append(&[backend(id), Named::BackendGone { id }])
            .unwrap();
    }
    let text = std::fs::read_to_string(dir.join(FILE_NAME)).unwrap();
    assert!(text.lines().count() < 6_000, "{}", text.lines().count());
    assert_eq!(Names::read(&dir).unwrap().backends.len(), 1);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_half_written_last_line_is_left_out() {
    let dir = directory("half");
    NamesFile::create(&dir).append(&[backend(1)]).unwrap();
    let mut file = OpenOptions::new()
        .append(true)
        .open(dir.join(FILE_NAME))
        .unwrap();
    file.write_all(b"{\"backend\":{\"id\":2,").unwrap();
    assert_eq!(Names::read(&dir).unwrap().backends.len(), 1);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn names_that_could_not_be_written_are_written_with_the_next_ones() {
    let dir = directory("later");
    let mut file = NamesFile::create(&dir);
    // A directory in the place of the new file, so that it cannot be made.
    let obstacle = dir.join(FILE_NAME).with_extension("new");
    std::fs::create_dir(&obstacle).unwrap();
    file.append(&[backend(1), backend(2)]).unwrap_err();
    assert!(file.is_behind());
    file.append(&[Named::BackendGone { id: 2 }]).unwrap_err();
    std::fs::remove_dir(&obstacle).unwrap();
    file.append(&[]).unwrap();
    assert!(!file.is_behind());
    let names = Names::read(&dir).unwrap();
    assert_eq!(names.backends.keys().collect::<Vec<_>>(), [&1]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_write_that_was_cut_off_costs_no_other_name() {
    let dir = directory("cut");
    let mut file = NamesFile::create(&dir);
    file.append(&[backend(1)]).unwrap();
    // As a full disk does it: half a line is in the file, and the rest fails.
    let real = file.file.replace(File::open("/dev/null").unwrap());
    file.append(&[backend(2)]).unwrap_err();
    file.file = real;
    file.file.as_mut().unwrap().write_all(b"{\"back").unwrap();
    file.append(&[backend(3)]).unwrap();
    let mut known: Vec<u32> = Names::read(&dir).unwrap().backends.into_keys().collect();
    known.sort_unstable();
    assert_eq!(known, [1, 2, 3]);
    std::fs::remove_dir_all(dir).unwrap();
}
