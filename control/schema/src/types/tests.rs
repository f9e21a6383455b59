// SPDX-License-Identifier: Apache-2.0
//! Tests over every definition: objects that have every field.

use serde_json::{Map, Value, json};

use super::*;

/// A value of a type with every field of it set.
fn full(schemas: &Schemas, type_: &Type) -> Value {
    match type_ {
        Type::Definition(index) => match &schemas.definition(*index).shape {
            Shape::Object(properties) => {
                let fields = properties
                    .iter()
                    .map(|p| (p.name.to_string(), full(schemas, &p.type_)));
                Value::Object(fields.collect())
            }
            Shape::Other(type_) => full(schemas, type_),
        },
        Type::Map(item) => json!({"key": full(schemas, item)}),
        Type::List(item) => json!([full(schemas, item)]),
        Type::String => "text".into(),
        Type::Bytes => "aGVsbG8=".into(),
        Type::Time(Precision::Seconds) => "2026-01-02T03:04:05Z".into(),
        Type::Time(Precision::Micros) => "2026-01-02T03:04:05.678901Z".into(),
        Type::Quantity => "1500m".into(),
        Type::IntOrString => "25%".into(),
        Type::Int32 => i32::MAX.into(),
        Type::Int64 => i64::MIN.into(),
        Type::Number => 0.5.into(),
        Type::Boolean => true.into(),
        Type::Any => json!({"anything": [null, {"goes": 1.5}]}),
    }
}

/// Every definition that is an object, with its name.
fn objects() -> Vec<(String, SchemaRef)> {
    let schemas = Schemas::builtin();
    let indexed = schemas.definitions.iter().zip(0..);
    indexed
        .filter(|(definition, _)| matches!(definition.shape, Shape::Object(_)))
        .map(|(definition, index)| {
            let schemas = Arc::clone(&schemas);
            (definition.name.to_string(), SchemaRef { schemas, index })
        })
        .collect()
}

#[test]
fn an_object_with_every_field_comes_through_unchanged() {
    let mut count = 0;
    for (name, schema) in objects() {
        let object = full(&schema.schemas, &Type::Definition(schema.index));
        let decoded = schema.decode(object.to_string().as_bytes()).unwrap();
        assert_eq!(decoded.value, object, "{name}");
        assert_eq!(decoded.unknown, [""; 0], "{name}");
        assert_eq!(schema.decode_value(object).unwrap(), decoded, "{name}");
        count += 1;
    }
    assert!(count > 200, "{count} definitions");
}

#[test]
fn an_object_as_its_own_patch_changes_nothing() {
    for (name, schema) in objects() {
        let object = full(&schema.schemas, &Type::Definition(schema.index));
        let merged = schema.strategic_merge(&object, &object).unwrap();
        assert_eq!(merged, object, "{name}");
        let merged = schema.strategic_merge(&object, &json!({})).unwrap();
        assert_eq!(merged, object, "{name}");
        let merged = schema.strategic_merge(&json!({}), &object).unwrap();
        assert_eq!(merged, object, "{name}");
    }
}

#[test]
fn every_list_that_is_merged_by_key_has_the_key_in_its_elements() {
    let mut found = 0;
    for (name, schema) in objects() {
        let Shape::Object(properties) = &schema.schemas.definition(schema.index).shape else {
            continue;
        };
        for property in properties {
            let PatchRule {
                merge, merge_key, ..
            } = &property.patch;
            let (true, Some(key)) = (merge, merge_key) else {
                continue;
            };
            let Type::List(item) = &property.type_ else {
                panic!("{name}.{} is no list", property.name);
            };
            let element = full(&schema.schemas, item);
            assert!(element.get(&**key).is_some(), "{name}.{}", property.name);
            for key in &property.patch.more_keys {
                assert!(element.get(&**key).is_some(), "{name}.{}", property.name);
            }
            found += 1;
        }
    }
    assert!(found > 30, "{found} lists");
}

#[test]
fn no_two_fields_of_a_message_have_one_number() {
    for (name, schema) in objects() {
        let Shape::Object(properties) = &schema.schemas.definition(schema.index).shape else {
            continue;
        };
        let mut seen = std::collections::HashSet::new();
        for property in properties.iter().filter(|p| p.tag != 0) {
            let number = (property.inline_tag, property.tag);
            assert!(seen.insert(number), "{name}.{}", property.name);
        }
        // A message around fields is not a field itself.
        for property in properties.iter().filter(|p| p.inline_tag != 0) {
            let taken = seen.contains(&(0, property.inline_tag));
            assert!(!taken, "{name}.{}", property.name);
        }
    }
}

#[test]
fn an_empty_object_is_one_of_every_kind() {
    for (name, schema) in objects() {
        let decoded = schema.decode(b"{}").unwrap();
        assert_eq!(decoded.value, Value::Object(Map::new()), "{name}");
    }
}
