-- A ledger of schema version 1, made by version 1's own code: SQLite, with rows in every table.
BEGIN TRANSACTION;
CREATE TABLE arrival (
	id INTEGER NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	generation INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	route VARCHAR(64), 
	attempts INTEGER NOT NULL, 
	opened_at FLOAT NOT NULL, 
	last_received_at FLOAT NOT NULL, 
	completed_at FLOAT, 
	finished_at FLOAT, 
	reason VARCHAR(1024), 
	PRIMARY KEY (id), 
	UNIQUE (series_instance_uid, generation)
);
INSERT INTO "arrival" VALUES(1,'1.2.1','1.2',1,'enhanced','all',0,1760000000.0,1760000000.0,1760000000.0,1760000000.0,NULL);
INSERT INTO "arrival" VALUES(2,'1.2.2','1.2',1,'passed_through','all',0,1760000005.0,1760000005.0,1760000005.0,1760000005.0,NULL);
INSERT INTO "arrival" VALUES(3,'1.2.3','1.2',1,'enhancing','all',0,1760000005.0,1760000005.0,1760000005.0,NULL,NULL);
INSERT INTO "arrival" VALUES(4,'1.2.4','1.2',1,'complete','all',0,1760000005.0,1760000005.0,1760000005.0,NULL,NULL);
INSERT INTO "arrival" VALUES(5,'1.2.5','1.2',1,'open',NULL,0,1760000005.0,1760000005.0,NULL,NULL,NULL);
CREATE TABLE association (
	id INTEGER NOT NULL, 
	receiver VARCHAR(80) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	called_ae_title VARCHAR(16) NOT NULL, 
	host VARCHAR(253) NOT NULL, 
	port INTEGER NOT NULL, 
	opened_at FLOAT NOT NULL, 
	closed_at FLOAT, 
	outcome VARCHAR(16), 
	acknowledged INTEGER, 
	PRIMARY KEY (id)
);
INSERT INTO "association" VALUES(1,'test:receiver','XRAY1','LOWDOSE','127.0.0.1',4711,1760000000.0,1760000000.0,'released',2);
INSERT INTO "association" VALUES(2,'test:receiver','XRAY1','LOWDOSE','127.0.0.1',4711,1760000005.0,1760000005.0,'released',2);
INSERT INTO "association" VALUES(3,'test:receiver','XRAY1','LOWDOSE','127.0.0.1',4711,1760000005.0,1760000005.0,'released',2);
INSERT INTO "association" VALUES(4,'test:receiver','XRAY1','LOWDOSE','127.0.0.1',4711,1760000005.0,1760000005.0,'released',1);
INSERT INTO "association" VALUES(5,'test:receiver','XRAY1','LOWDOSE','127.0.0.1',4711,1760000005.0,NULL,NULL,NULL);
CREATE TABLE delivery (
	id INTEGER NOT NULL, 
	arrival_id INTEGER NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	next_attempt_at FLOAT NOT NULL, 
	finished_at FLOAT, 
	reason VARCHAR(1024), 
	PRIMARY KEY (id), 
	UNIQUE (arrival_id, destination), 
	FOREIGN KEY(arrival_id) REFERENCES arrival (id)
);
INSERT INTO "delivery" VALUES(1,1,'pacs','sent',1,1760000000.0,1760000000.0,1760000005.0,NULL);
INSERT INTO "delivery" VALUES(2,1,'archive','refused',1,1760000000.0,1760000000.0,1760000005.0,'data set does not match');
INSERT INTO "delivery" VALUES(3,2,'pacs','sending',1,1760000005.0,1760000005.0,NULL,NULL);
CREATE TABLE delivery_item (
	delivery_id INTEGER NOT NULL, 
	instance_id INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	status INTEGER, 
	reason VARCHAR(1024), 
	in_doubt BOOLEAN NOT NULL, 
	at FLOAT, 
	PRIMARY KEY (delivery_id, instance_id), 
	FOREIGN KEY(delivery_id) REFERENCES delivery (id), 
	FOREIGN KEY(instance_id) REFERENCES instance (id)
);
INSERT INTO "delivery_item" VALUES(1,2,'sent',0,NULL,0,1760000005.0);
INSERT INTO "delivery_item" VALUES(1,3,'sent',0,NULL,0,1760000005.0);
INSERT INTO "delivery_item" VALUES(2,2,'sent',0,NULL,0,1760000005.0);
INSERT INTO "delivery_item" VALUES(2,3,'refused',43264,'data set does not match',0,1760000005.0);
INSERT INTO "delivery_item" VALUES(3,4,'pending',NULL,NULL,1,NULL);
INSERT INTO "delivery_item" VALUES(3,5,'pending',NULL,NULL,1,NULL);
CREATE TABLE enhancement (
	instance_id INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	decision VARCHAR(16), 
	reason VARCHAR(1024), 
	derived_id INTEGER, 
	strength FLOAT, 
	noise_before FLOAT, 
	noise_after FLOAT, 
	inference_s FLOAT, 
	total_s FLOAT, 
	model_digest VARCHAR(64), 
	at FLOAT NOT NULL, 
	PRIMARY KEY (instance_id), 
	FOREIGN KEY(instance_id) REFERENCES instance (id), 
	FOREIGN KEY(derived_id) REFERENCES instance (id)
);
INSERT INTO "enhancement" VALUES(1,1,'enhanced',NULL,3,0.7,NULL,NULL,NULL,NULL,NULL,1760000000.0);
INSERT INTO "enhancement" VALUES(2,1,'passed_through','not an image',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1760000000.0);
INSERT INTO "enhancement" VALUES(4,0,'passed_through','not an image',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1760000005.0);
INSERT INTO "enhancement" VALUES(5,0,'passed_through','not an image',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1760000005.0);
INSERT INTO "enhancement" VALUES(6,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1760000005.0);
CREATE TABLE event (
	id INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	subject VARCHAR(16) NOT NULL, 
	subject_id BIGINT NOT NULL, 
	from_state VARCHAR(16), 
	to_state VARCHAR(16) NOT NULL, 
	event VARCHAR(24) NOT NULL, 
	reason VARCHAR(1024), 
	PRIMARY KEY (id)
);
INSERT INTO "event" VALUES(1,1760000000.0,'arrival',1,NULL,'open','open',NULL);
INSERT INTO "event" VALUES(2,1760000000.0,'instance',1,NULL,'stored','receive',NULL);
INSERT INTO "event" VALUES(3,1760000000.0,'instance',2,NULL,'stored','receive',NULL);
INSERT INTO "event" VALUES(4,1760000000.0,'arrival',1,'open','complete','complete',NULL);
INSERT INTO "event" VALUES(5,1760000000.0,'arrival',1,'complete','enhancing','begin',NULL);
INSERT INTO "event" VALUES(6,1760000000.0,'instance',3,NULL,'stored','derive','from instance 1');
INSERT INTO "event" VALUES(7,1760000000.0,'instance',1,'stored','enhanced','decide',NULL);
INSERT INTO "event" VALUES(8,1760000000.0,'instance',2,'stored','passed_through','decide','not an image');
INSERT INTO "event" VALUES(9,1760000000.0,'arrival',1,'enhancing','enhanced','finish',NULL);
INSERT INTO "event" VALUES(10,1760000000.0,'delivery',1,NULL,'pending','open','to pacs');
INSERT INTO "event" VALUES(11,1760000000.0,'delivery',2,NULL,'pending','open','to archive');
INSERT INTO "event" VALUES(12,1760000005.0,'delivery',1,'pending','sending','begin',NULL);
INSERT INTO "event" VALUES(13,1760000005.0,'delivery',1,'sending','sent','succeed',NULL);
INSERT INTO "event" VALUES(14,1760000005.0,'delivery',2,'pending','sending','begin',NULL);
INSERT INTO "event" VALUES(15,1760000005.0,'delivery',2,'sending','refused','refuse','data set does not match');
INSERT INTO "event" VALUES(16,1760000005.0,'arrival',2,NULL,'open','open',NULL);
INSERT INTO "event" VALUES(17,1760000005.0,'instance',4,NULL,'stored','receive',NULL);
INSERT INTO "event" VALUES(18,1760000005.0,'instance',5,NULL,'stored','receive',NULL);
INSERT INTO "event" VALUES(19,1760000005.0,'arrival',2,'open','complete','complete',NULL);
INSERT INTO "event" VALUES(20,1760000005.0,'arrival',2,'complete','enhancing','begin',NULL);
INSERT INTO "event" VALUES(21,1760000005.0,'instance',4,'stored','passed_through','decide','not an image');
INSERT INTO "event" VALUES(22,1760000005.0,'instance',5,'stored','passed_through','decide','not an image');
INSERT INTO "event" VALUES(23,1760000005.0,'arrival',2,'enhancing','passed_through','pass_through',NULL);
INSERT INTO "event" VALUES(24,1760000005.0,'delivery',3,NULL,'pending','open','to pacs');
INSERT INTO "event" VALUES(25,1760000005.0,'delivery',3,'pending','sending','begin',NULL);
INSERT INTO "event" VALUES(26,1760000005.0,'arrival',3,NULL,'open','open',NULL);
INSERT INTO "event" VALUES(27,1760000005.0,'instance',6,NULL,'stored','receive',NULL);
INSERT INTO "event" VALUES(28,1760000005.0,'instance',7,NULL,'stored','receive',NULL);
INSERT INTO "event" VALUES(29,1760000005.0,'arrival',3,'open','complete','complete',NULL);
INSERT INTO "event" VALUES(30,1760000005.0,'arrival',3,'complete','enhancing','begin',NULL);
INSERT INTO "event" VALUES(31,1760000005.0,'arrival',4,NULL,'open','open',NULL);
INSERT INTO "event" VALUES(32,1760000005.0,'instance',8,NULL,'stored','receive',NULL);
INSERT INTO "event" VALUES(33,1760000005.0,'arrival',4,'open','complete','complete',NULL);
INSERT INTO "event" VALUES(34,1760000005.0,'arrival',5,NULL,'open','open',NULL);
INSERT INTO "event" VALUES(35,1760000005.0,'instance',9,NULL,'stored','receive',NULL);
INSERT INTO "event" VALUES(36,1760000005.0,'instance',10,NULL,'stored','receive','revision 1 of a SOP Instance UID received with other content');
INSERT INTO "event" VALUES(37,1760000005.0,'instance',11,NULL,'quarantined','quarantine','not a data set');
CREATE TABLE instance (
	id INTEGER NOT NULL, 
	origin VARCHAR(8) NOT NULL, 
	association_id INTEGER, 
	arrival_id INTEGER, 
	source_id INTEGER, 
	state VARCHAR(16) NOT NULL, 
	reason VARCHAR(1024), 
	sop_class_uid VARCHAR(64), 
	sop_instance_uid VARCHAR(64), 
	study_instance_uid VARCHAR(64), 
	series_instance_uid VARCHAR(64), 
	transfer_syntax_uid VARCHAR(64), 
	"key" VARCHAR(255) NOT NULL, 
	size BIGINT NOT NULL, 
	dataset_offset INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(association_id) REFERENCES association (id), 
	FOREIGN KEY(arrival_id) REFERENCES arrival (id), 
	FOREIGN KEY(source_id) REFERENCES instance (id)
);
INSERT INTO "instance" VALUES(1,'received',1,1,NULL,'stored',NULL,'1.2.840.10008.5.1.4.1.1.1','1.2.1.1','1.2','1.2.1','1.2.840.10008.1.2.1','key-1-1-1-a',1000,300,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,1760000000.0);
INSERT INTO "instance" VALUES(2,'received',1,1,NULL,'stored',NULL,'1.2.840.10008.5.1.4.1.1.1','1.2.1.2','1.2','1.2.1','1.2.840.10008.1.2.1','key-1-1-2-a',1000,300,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,1760000000.0);
INSERT INTO "instance" VALUES(3,'derived',NULL,1,1,'stored',NULL,'1.2.840.10008.5.1.4.1.1.1','2.25.1','1.2','2.25.1000','1.2.840.10008.1.2.1','derived-1',900,300,'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd',0,1760000000.0);
INSERT INTO "instance" VALUES(4,'received',2,2,NULL,'stored',NULL,'1.2.840.10008.5.1.4.1.1.1','1.2.2.1','1.2','1.2.2','1.2.840.10008.1.2.1','key-2-2-1-a',1000,300,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,1760000005.0);
INSERT INTO "instance" VALUES(5,'received',2,2,NULL,'stored',NULL,'1.2.840.10008.5.1.4.1.1.1','1.2.2.2','1.2','1.2.2','1.2.840.10008.1.2.1','key-2-2-2-a',1000,300,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,1760000005.0);
INSERT INTO "instance" VALUES(6,'received',3,3,NULL,'stored',NULL,'1.2.840.10008.5.1.4.1.1.1','1.2.3.1','1.2','1.2.3','1.2.840.10008.1.2.1','key-3-3-1-a',1000,300,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,1760000005.0);
INSERT INTO "instance" VALUES(7,'received',3,3,NULL,'stored',NULL,'1.2.840.10008.5.1.4.1.1.1','1.2.3.2','1.2','1.2.3','1.2.840.10008.1.2.1','key-3-3-2-a',1000,300,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,1760000005.0);
INSERT INTO "instance" VALUES(8,'received',4,4,NULL,'stored',NULL,'1.2.840.10008.5.1.4.1.1.1','1.2.4.1','1.2','1.2.4','1.2.840.10008.1.2.1','key-4-4-1-a',1000,300,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,1760000005.0);
INSERT INTO "instance" VALUES(9,'received',5,5,NULL,'stored',NULL,'1.2.840.10008.5.1.4.1.1.1','1.2.5.1','1.2','1.2.5','1.2.840.10008.1.2.1','key-5-5-1-a',1000,300,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,1760000005.0);
INSERT INTO "instance" VALUES(10,'received',5,5,NULL,'stored','revision 1 of a SOP Instance UID received with other content','1.2.840.10008.5.1.4.1.1.1','1.2.5.1','1.2','1.2.5','1.2.840.10008.1.2.1','key-5-5-1-b',1000,300,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',1,1760000005.0);
INSERT INTO "instance" VALUES(11,'received',5,NULL,NULL,'quarantined','not a data set',NULL,NULL,NULL,NULL,NULL,'quarantine/broken',77,0,'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',0,1760000005.0);
CREATE TABLE process (
	name VARCHAR(80) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	host VARCHAR(253) NOT NULL, 
	pid INTEGER NOT NULL, 
	started_at FLOAT NOT NULL, 
	seen_at FLOAT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "process" VALUES('node:receiver','receiver','old-host',4711,1760000005.0,1760000005.0);
CREATE TABLE rejection (
	id INTEGER NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	called_ae_title VARCHAR(16) NOT NULL, 
	host VARCHAR(253) NOT NULL, 
	reason VARCHAR(255) NOT NULL, 
	first_at FLOAT NOT NULL, 
	last_at FLOAT NOT NULL, 
	count INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (calling_ae_title, called_ae_title, host, reason)
);
INSERT INTO "rejection" VALUES(1,'NOBODY','LOWDOSE','10.0.0.9','unknown calling AE title',1760000005.0,1760000005.0,1);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE INDEX association_open ON association (closed_at);
CREATE INDEX arrival_study ON arrival (study_instance_uid);
CREATE INDEX arrival_state ON arrival (state);
CREATE UNIQUE INDEX arrival_one_open ON arrival (series_instance_uid) WHERE state = 'open';
CREATE INDEX event_subject ON event (subject, subject_id);
CREATE INDEX instance_source ON instance (source_id);
CREATE INDEX instance_state ON instance (state);
CREATE UNIQUE INDEX instance_one_revision ON instance (sop_instance_uid, revision) WHERE origin = 'received' AND arrival_id IS NOT NULL;
CREATE INDEX instance_sop_instance ON instance (sop_instance_uid);
CREATE INDEX instance_arrival ON instance (arrival_id);
CREATE INDEX instance_association ON instance (association_id);
CREATE INDEX delivery_state ON delivery (state, next_attempt_at);
CREATE INDEX delivery_item_instance ON delivery_item (instance_id);
COMMIT;
