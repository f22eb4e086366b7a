-- The database as version 0.1 wrote it. Never edit: old databases do not change either.
BEGIN TRANSACTION;
CREATE TABLE aviary_requests_revision (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT aviary_requests_revision_pkc PRIMARY KEY (version_num)
);
INSERT INTO "aviary_requests_revision" VALUES('0001_request_log');
CREATE TABLE request_log (
	seq INTEGER NOT NULL, 
	id VARCHAR(128) NOT NULL, 
	time DOUBLE NOT NULL, 
	route VARCHAR(256) NOT NULL, 
	model VARCHAR(256) NOT NULL, 
	replica VARCHAR(256) NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	status INTEGER NOT NULL, 
	error VARCHAR(64) NOT NULL, 
	stream BOOLEAN NOT NULL, 
	time_to_first_token_ms DOUBLE, 
	latency_ms DOUBLE NOT NULL, 
	overhead_ms DOUBLE, 
	prompt_tokens INTEGER, 
	completion_tokens INTEGER, 
	cost_usd DOUBLE, 
	PRIMARY KEY (seq)
);
INSERT INTO "request_log" VALUES(1,'req-1',1.0,'/v1/chat/completions','smollm2','smollm2/ab12cd','ak_000000000001',200,'',1,12.5,99.5,0.2,10,20,0.001);
INSERT INTO "request_log" VALUES(2,'req-2',2.0,'/v1/chat/completions','smollm2','','',503,'model_not_ready',0,NULL,3.0,NULL,NULL,NULL,NULL);
CREATE TABLE request_totals (
	model VARCHAR(256) NOT NULL, 
	requests BIGINT NOT NULL, 
	errors BIGINT NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	completion_tokens BIGINT NOT NULL, 
	cost_usd DOUBLE NOT NULL, 
	PRIMARY KEY (model)
);
INSERT INTO "request_totals" VALUES('smollm2',2,1,10,20,0.001);
CREATE INDEX ix_request_log_time ON request_log (time);
CREATE INDEX ix_request_log_model_time ON request_log (model, time);
COMMIT;
