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
