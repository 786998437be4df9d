-- A ledger of schema version 1, made by version 1's own code: PostgreSQL, tables alone.
CREATE TABLE schema_version (
	version SERIAL NOT NULL, 
	PRIMARY KEY (version)
);
CREATE TABLE association (
	id BIGSERIAL NOT NULL, 
	receiver VARCHAR(80) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	called_ae_title VARCHAR(16) NOT NULL, 
	host VARCHAR(253) NOT NULL, 
	port INTEGER NOT NULL, 
	opened_at FLOAT(53) NOT NULL, 
	closed_at FLOAT(53), 
	outcome VARCHAR(16), 
	acknowledged INTEGER, 
	PRIMARY KEY (id)
);
CREATE INDEX association_open ON association (closed_at);
CREATE TABLE rejection (
	id BIGSERIAL NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	called_ae_title VARCHAR(16) NOT NULL, 
	host VARCHAR(253) NOT NULL, 
	reason VARCHAR(255) NOT NULL, 
	first_at FLOAT(53) NOT NULL, 
	last_at FLOAT(53) NOT NULL, 
	count INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (calling_ae_title, called_ae_title, host, reason)
);
CREATE TABLE arrival (
	id BIGSERIAL NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	generation INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	route VARCHAR(64), 
	attempts INTEGER NOT NULL, 
	opened_at FLOAT(53) NOT NULL, 
	last_received_at FLOAT(53) NOT NULL, 
	completed_at FLOAT(53), 
	finished_at FLOAT(53), 
	reason VARCHAR(1024), 
	PRIMARY KEY (id), 
	UNIQUE (series_instance_uid, generation)
);
CREATE INDEX arrival_study ON arrival (study_instance_uid);
CREATE INDEX arrival_state ON arrival (state);
CREATE UNIQUE INDEX arrival_one_open ON arrival (series_instance_uid) WHERE state = 'open';
CREATE TABLE event (
	id BIGSERIAL NOT NULL, 
	at FLOAT(53) NOT NULL, 
	subject VARCHAR(16) NOT NULL, 
	subject_id BIGINT NOT NULL, 
	from_state VARCHAR(16), 
	to_state VARCHAR(16) NOT NULL, 
	event VARCHAR(24) NOT NULL, 
	reason VARCHAR(1024), 
	PRIMARY KEY (id)
);
CREATE INDEX event_subject ON event (subject, subject_id);
CREATE TABLE process (
	name VARCHAR(80) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	host VARCHAR(253) NOT NULL, 
	pid INTEGER NOT NULL, 
	started_at FLOAT(53) NOT NULL, 
	seen_at FLOAT(53) NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE instance (
	id BIGSERIAL NOT NULL, 
	origin VARCHAR(8) NOT NULL, 
	association_id BIGINT, 
	arrival_id BIGINT, 
	source_id BIGINT, 
	state VARCHAR(16) NOT NULL, 
	reason VARCHAR(1024), 
	sop_class_uid VARCHAR(64), 
	sop_instance_uid VARCHAR(64), 
	study_instance_uid VARCHAR(64), 
	series_instance_uid VARCHAR(64), 
	transfer_syntax_uid VARCHAR(64), 
	key VARCHAR(255) NOT NULL, 
	size BIGINT NOT NULL, 
	dataset_offset INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	at FLOAT(53) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(association_id) REFERENCES association (id), 
	FOREIGN KEY(arrival_id) REFERENCES arrival (id), 
	FOREIGN KEY(source_id) REFERENCES instance (id)
);
CREATE INDEX instance_source ON instance (source_id);
CREATE INDEX instance_state ON instance (state);
CREATE UNIQUE INDEX instance_one_revision ON instance (sop_instance_uid, revision) WHERE origin = 'received' AND arrival_id IS NOT NULL;
CREATE INDEX instance_sop_instance ON instance (sop_instance_uid);
CREATE INDEX instance_arrival ON instance (arrival_id);
CREATE INDEX instance_association ON instance (association_id);
CREATE TABLE delivery (
	id BIGSERIAL NOT NULL, 
	arrival_id BIGINT NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at FLOAT(53) NOT NULL, 
	next_attempt_at FLOAT(53) NOT NULL, 
	finished_at FLOAT(53), 
	reason VARCHAR(1024), 
	PRIMARY KEY (id), 
	UNIQUE (arrival_id, destination), 
	FOREIGN KEY(arrival_id) REFERENCES arrival (id)
);
CREATE INDEX delivery_state ON delivery (state, next_attempt_at);
CREATE TABLE enhancement (
	instance_id BIGINT NOT NULL, 
	attempts INTEGER NOT NULL, 
	decision VARCHAR(16), 
	reason VARCHAR(1024), 
	derived_id BIGINT, 
	strength FLOAT(53), 
	noise_before FLOAT(53), 
	noise_after FLOAT(53), 
	inference_s FLOAT(53), 
	total_s FLOAT(53), 
	model_digest VARCHAR(64), 
	at FLOAT(53) NOT NULL, 
	PRIMARY KEY (instance_id), 
	FOREIGN KEY(instance_id) REFERENCES instance (id), 
	FOREIGN KEY(derived_id) REFERENCES instance (id)
);
CREATE TABLE delivery_item (
	delivery_id BIGINT NOT NULL, 
	instance_id BIGINT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	status INTEGER, 
	reason VARCHAR(1024), 
	in_doubt BOOLEAN NOT NULL, 
	at FLOAT(53), 
	PRIMARY KEY (delivery_id, instance_id), 
	FOREIGN KEY(delivery_id) REFERENCES delivery (id), 
	FOREIGN KEY(instance_id) REFERENCES instance (id)
);
CREATE INDEX delivery_item_instance ON delivery_item (instance_id);
