// A component as the Go programs of the field are: what it sends, reads and expects is theirs,
// down to the missing ids. The first argument says which one:
//
//	legacy   like ttp-processor: no id at all, told apart by its health port
//	named    like contract-events-processor: its component id in field 8
//	sdk      like the programs of the SDK: flowctl.v1, heartbeats of unknown health
//	swarm N  N legacy clients in one program that beat every 50 ms
//	flood N  N heartbeats of 100 clients as fast as they are taken, then the end
//	burst P  registrations P0, P1 and on, each as soon as the one before is answered
//	idle N   N connections over which nothing is called
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	legacy "flowctl.test/clients/gen/flowctl"
	v1 "flowctl.test/clients/gen/flowctl/v1"
)

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	log.SetFlags(0)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	mode := "legacy"
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	switch mode {
	case "legacy", "named":
		serveHealth()
		if os.Getenv("ENABLE_FLOWCTL") == "true" {
			go runLegacy(mode == "named", env("HEALTH_PORT", "8088"), interval(10*time.Second))
		}
	case "sdk":
		serveHealth()
		runSdk()
	case "swarm":
		count, err := strconv.Atoi(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		var registered sync.WaitGroup
		for number := range count {
			registered.Add(1)
			go func() {
				client, id := registerLegacy(false, strconv.Itoa(20000+number))
				log.Printf("registered %s", id)
				registered.Done()
				beatLegacy(client, id, 50*time.Millisecond)
			}()
		}
		registered.Wait()
		log.Print("all registered")
	case "flood":
		count, err := strconv.Atoi(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		flood(count)
		return
	case "burst":
		burst(os.Args[2])
		return
	case "idle":
		count, err := strconv.Atoi(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		idle(count)
	default:
		log.Fatalf("no such client: %s", mode)
	}
	<-ended
}

// interval reads the setting as every Go program of the field does.
func interval(otherwise time.Duration) time.Duration {
	if parsed, err := time.ParseDuration(os.Getenv("FLOWCTL_HEARTBEAT_INTERVAL")); err == nil {
		return parsed
	}
	return otherwise
}

// serveHealth answers 200 always, as they all do.
func serveHealth() {
	http.HandleFunc("/health", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(answer, `{"status":"healthy"}`)
	})
	go func() {
		if err := http.ListenAndServe(":"+env("HEALTH_PORT", "8088"), nil); err != nil {
			log.Printf("health server: %v", err)
		}
	}()
}

func registerLegacy(named bool, healthPort string) (legacy.ControlPlaneClient, string) {
	simulated := "sim-ttp-processor-" + time.Now().Format("20060102150405")
	// Deprecated, and what they use: it does not wait for the connection.
	conn, err := grpc.Dial(env("FLOWCTL_ENDPOINT", "localhost:8080"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Printf("register failed: %v; using %s", err, simulated)
		return nil, simulated
	}
	client := legacy.NewControlPlaneClient(conn)
	info := &legacy.ServiceInfo{
		ServiceType:      legacy.ServiceType_SERVICE_TYPE_PROCESSOR,
		InputEventTypes:  []string{"raw_ledger_service.RawLedgerChunk"},
		OutputEventTypes: []string{"event_service.TokenTransferEvent"},
		HealthEndpoint:   "http://localhost:" + healthPort + "/health",
		MaxInflight:      100,
		Metadata:         map[string]string{"network": env("STELLAR_NETWORK", "testnet")},
	}
	if named {
		info.ComponentId = os.Getenv("FLOWCTL_COMPONENT_ID")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ack, err := client.Register(ctx, info)
	if err != nil {
		log.Printf("register failed: %v; using %s", err, simulated)
		return client, simulated
	}
	return client, ack.ServiceId
}

func runLegacy(named bool, healthPort string, every time.Duration) {
	client, id := registerLegacy(named, healthPort)
	log.Printf("registered %s", id)
	beatLegacy(client, id, every)
}

// beatLegacy sends its first heartbeat a whole interval after the registration, and never
// registers again whatever the answer is.
func beatLegacy(client legacy.ControlPlaneClient, id string, every time.Duration) {
	if client == nil {
		return
	}
	processed := 0.0
	for range time.Tick(every) {
		processed++
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := client.Heartbeat(ctx, &legacy.ServiceHeartbeat{
			ServiceId: id,
			Timestamp: timestamppb.Now(),
			Metrics: map[string]float64{
				"success_count":         processed,
				"error_count":           0,
				"total_processed":       processed,
				"processing_latency_ms": 1.5,
			},
		})
		cancel()
		if err != nil {
			log.Printf("heartbeat failed: %v", err)
		}
	}
}

// flood sends count heartbeats over four connections.
func flood(count int) {
	const senders = 100
	var taken, refused atomic.Int64
	var ended sync.WaitGroup
	var clients []legacy.ControlPlaneClient
	for range 4 {
		conn, err := grpc.Dial(env("FLOWCTL_ENDPOINT", "localhost:8080"),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			log.Fatal(err)
		}
		clients = append(clients, legacy.NewControlPlaneClient(conn))
	}
	started := time.Now()
	for number := range senders {
		ended.Add(1)
		go func() {
			defer ended.Done()
			beat := &legacy.ServiceHeartbeat{
				ServiceId: "flood-" + strconv.Itoa(number),
				Metrics:   map[string]float64{"success_count": 1, "total_processed": 2},
			}
			for range count / senders {
				if _, err := clients[number%4].Heartbeat(context.Background(), beat); err != nil {
					refused.Add(1)
				} else {
					taken.Add(1)
				}
			}
		}()
	}
	ended.Wait()
	log.Printf("flood: %d taken, %d refused in %v", taken.Load(), refused.Load(), time.Since(started))
}

// burst registers until the control plane is gone, and tells of each that was answered.
func burst(prefix string) {
	conn, err := grpc.Dial(env("FLOWCTL_ENDPOINT", "localhost:8080"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	client := legacy.NewControlPlaneClient(conn)
	for number := range 1000 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		ack, err := client.Register(ctx, &legacy.ServiceInfo{
			ServiceId:   prefix + strconv.Itoa(number),
			ServiceType: legacy.ServiceType_SERVICE_TYPE_SOURCE,
		})
		cancel()
		if err != nil {
			break
		}
		log.Printf("registered %s", ack.ServiceId)
	}
	log.Print("ended")
}

// idle greets as an HTTP/2 client does, reads what it is sent, and says nothing more.
func idle(count int) {
	for range count {
		conn, err := net.Dial("tcp", env("FLOWCTL_ENDPOINT", "localhost:8080"))
		if err != nil {
			log.Fatal(err)
		}
		greeting := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
		if _, err := io.WriteString(conn, greeting); err != nil {
			log.Print(err)
			continue
		}
		if _, err := io.ReadFull(conn, make([]byte, 9)); err != nil {
			log.Print(err)
			continue
		}
		go io.Copy(io.Discard, conn)
	}
	log.Print("all open")
}

func runSdk() {
	conn, err := grpc.Dial(env("FLOWCTL_ENDPOINT", "localhost:8080"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithBlock())
	if err != nil {
		log.Fatalf("dial: %v", err)
	}
	client := v1.NewControlPlaneServiceClient(conn)
	ack, err := client.RegisterComponent(context.Background(), &v1.RegisterRequest{
		Component: &v1.ComponentInfo{
			Id:               env("COMPONENT_ID", "ttp-processor-sdk"),
			Name:             "TTP",
			Version:          "1.0.0",
			Type:             v1.ComponentType_COMPONENT_TYPE_PROCESSOR,
			InputEventTypes:  []string{"stellar.ledger.v1"},
			OutputEventTypes: []string{"stellar.token.transfer.v1"},
			Endpoint:         env("PORT", ":50071"),
			Metadata:         map[string]string{"processor_version": "1.0.0"},
		},
	})
	if err != nil {
		log.Printf("register: %v", err)
		os.Exit(1)
	}
	log.Printf("registered %s", ack.ServiceId)
	// Only now does it open its own port.
	if listener, err := net.Listen("tcp", env("PORT", ":50071")); err == nil {
		go func() { log.Print(grpc.NewServer().Serve(listener)) }()
	}
	go func() {
		started, processed := time.Now(), 0
		for range time.Tick(interval(30 * time.Second)) {
			processed++
			_, err := client.Heartbeat(context.Background(), &v1.HeartbeatRequest{
				ServiceId: ack.ServiceId,
				Status:    v1.HealthStatus_HEALTH_STATUS_UNKNOWN,
				Metrics: map[string]string{
					"processed_count":    strconv.Itoa(processed),
					"processing_latency": "1.5ms",
					"uptime_seconds":     strconv.Itoa(int(time.Since(started).Seconds())),
				},
			})
			if err != nil {
				log.Printf("heartbeat: %v", err)
			}
		}
	}()
}
