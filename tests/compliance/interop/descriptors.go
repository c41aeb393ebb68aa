// Print the descriptors of grpc.testing.TestService. The Go module has its generated code, but not its .proto files.
package main

import (
	"os"

	testing "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

func main() {
	files := &descriptorpb.FileDescriptorSet{}
	add(files, testing.File_grpc_testing_test_proto)
	content, err := proto.Marshal(files)
	if err != nil {
		panic(err)
	}
	if _, err := os.Stdout.Write(content); err != nil {
		panic(err)
	}
}

// Append a file, after the files that it imports.
func add(files *descriptorpb.FileDescriptorSet, file protoreflect.FileDescriptor) {
	for i := 0; i < file.Imports().Len(); i++ {
		add(files, file.Imports().Get(i).FileDescriptor)
	}
	files.File = append(files.File, protodesc.ToFileDescriptorProto(file))
}
